"""Confidence intervals and paired comparisons, compared with scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from launch.compare import BETTER, CANT_TELL, WORSE, compare, mean_interval


def by_seed(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_confidence_interval_is_students_t():
    values = np.random.default_rng(0).normal(3, 2, 7).tolist()
    interval = mean_interval(values)
    low, high = stats.t.interval(0.95, 6, loc=np.mean(values), scale=stats.sem(values))
    assert interval.mean - interval.half_width == pytest.approx(low)
    assert interval.mean + interval.half_width == pytest.approx(high)
    assert interval.count == 7


def test_one_seed_has_an_infinite_interval():
    assert mean_interval([0.5]).half_width == math.inf
    assert compare({0: 1.0}, {0: 0.0}, higher_is_better=True).verdict == CANT_TELL
    with pytest.raises(ValueError, match="values is empty"):
        mean_interval([])


def test_rounding_errors_are_no_difference():
    compared = compare(by_seed([0.1 + 0.2, 0.5]), by_seed([0.3, 0.5]), higher_is_better=True)
    assert compared.difference.mean == compared.difference.half_width == 0
    assert compared.verdict == CANT_TELL


@pytest.mark.parametrize("comparisons", [1, 4])
def test_interval_of_the_difference_is_that_of_a_paired_t_test(comparisons):
    rng = np.random.default_rng(1)
    values, baseline = rng.normal(0, 1, 6), rng.normal(0, 1, 6)
    compared = compare(
        by_seed(values), by_seed(baseline), higher_is_better=True, comparisons=comparisons
    )
    confidence = 1 - 0.05 / comparisons
    low, high = stats.ttest_rel(values, baseline).confidence_interval(confidence)
    difference = compared.difference
    assert difference.mean - difference.half_width == pytest.approx(low)
    assert difference.mean + difference.half_width == pytest.approx(high)


def test_verdict_follows_the_sign_of_a_significant_difference():
    seeds = np.random.default_rng(2).normal(0, 1, 4)  # a large spread, common to both
    small = np.array([0.01, 0.02, 0.015, 0.012])

    def verdict(values, baseline, higher):
        return compare(by_seed(values), by_seed(baseline), higher_is_better=higher).verdict

    assert verdict(seeds + small, seeds, True) == BETTER
    assert verdict(seeds + small, seeds, False) == WORSE
    assert verdict(seeds - small, seeds, True) == WORSE
    assert verdict(seeds, seeds, True) == CANT_TELL
    assert verdict(seeds + small * [1, -1, 1, -1], seeds, True) == CANT_TELL


def test_only_seeds_of_both_settings_are_compared():
    compared = compare({0: 1.0, 1: 2.0, 9: 50.0}, {1: 1.0, 0: 0.0, 7: -50.0}, higher_is_better=True)
    assert (compared.difference.mean, compared.difference.count) == (1.0, 2)
    assert compare({0: 1.0}, {1: 1.0}, higher_is_better=True) is None


def test_settings_without_a_difference_are_rarely_called_better_or_worse():
    """The verdicts of a study hold together at 95%.

    Of 400 studies without any difference, about 20 may have a verdict other than `CANT_TELL`.
    Without the correction for several comparisons it would be about 130.
    """
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        baseline, *others = rng.normal(0, 1, (9, 4))
        verdicts = [
            compare(by_seed(o), by_seed(baseline), higher_is_better=True, comparisons=8).verdict
            for o in others
        ]
        wrong += verdicts != [CANT_TELL] * 8
    assert wrong < 40
