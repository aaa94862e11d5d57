"""Which of several settings is better, and whether it may be luck: Student's t over seeds.

Two settings are compared seed by seed: the same seed means the same order of pages, noise and
initial weights, so that the difference of a pair has less chance in it than either run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
BETTER, WORSE, CANT_TELL = "better", "worse", "can't tell"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and how far from it the true one may lie.

    Attributes:
        half_width: of the confidence interval; infinite when there is one seed only.
        count: seeds.
    """

    mean: float
    half_width: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """A setting against the baseline: the mean difference over the seeds both have."""

    difference: Interval
    verdict: str


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent values with its confidence interval (Student 1908).

    The half width is t(1 - (1 - confidence) / 2; n - 1) s / sqrt(n), s being the sample's standard
    deviation. Raises ValueError when there are no values.
    """
    if not values:
        raise ValueError("there is no mean of no values")
    mean, count = math.fsum(values) / len(values), len(values)
    if count == 1:
        return Interval(mean, math.inf, count)
    quantile = stats.t.ppf(1 - (1 - confidence) / 2, count - 1)
    return Interval(mean, float(quantile * np.std(values, ddof=1) / math.sqrt(count)), count)


def compare(
    ours: Mapping[int, float],
    baseline: Mapping[int, float],
    *,
    higher_is_better: bool,
    comparisons: int = 1,
) -> Comparison | None:
    """Whether a setting is better than the baseline: a paired t interval of the difference.

    Args:
        ours, baseline: the metric by seed; seeds that one of them lacks are left out.
        comparisons: how many settings are compared with this baseline. All of their intervals hold
            together at 95% (Bonferroni: each is made for 1 - 0.05 / comparisons), or else among
            many settings some would look better by luck.

    Returns: None when they share no seed. "can't tell" unless the interval leaves out 0.
    """
    seeds = sorted(ours.keys() & baseline.keys())
    if not seeds:
        return None
    confidence = 1 - (1 - CONFIDENCE) / comparisons
    difference = mean_interval([ours[seed] - baseline[seed] for seed in seeds], confidence)
    if not abs(difference.mean) > difference.half_width:
        return Comparison(difference, CANT_TELL)
    return Comparison(difference, BETTER if (difference.mean > 0) == higher_is_better else WORSE)
