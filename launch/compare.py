"""Comparison of settings with a baseline: paired Student's t intervals over seeds.

Two settings are compared seed by seed. The same seed means the same order of pages, noise and
initial weights, so the difference of a pair varies less than the results themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ROUNDING = 1e-9  # relative difference below which two results are equal
BETTER, WORSE, CANT_TELL = "better", "worse", "can't tell"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval.

    Attributes:
        half_width: half width of the interval; infinite for a single seed.
        count: number of seeds.
    """

    mean: float
    half_width: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """Mean difference between a setting and the baseline over the seeds that both have."""

    difference: Interval
    verdict: str


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Compute the mean of independent values with its confidence interval (Student 1908).

    The half width is t(1 - (1 - confidence) / 2; n - 1) s / sqrt(n), s being the sample standard
    deviation. Raises ValueError for an empty sequence.
    """
    if not values:
        raise ValueError("values is empty")
    mean, count = math.fsum(values) / len(values), len(values)
    if count == 1:
        return Interval(mean, math.inf, count)
    quantile = stats.t.ppf(1 - (1 - confidence) / 2, count - 1)
    return Interval(mean, float(quantile * np.std(values, ddof=1) / math.sqrt(count)), count)


def compare(
    scores: Mapping[int, float],
    baseline: Mapping[int, float],
    *,
    higher_is_better: bool,
    comparisons: int = 1,
) -> Comparison | None:
    """Compare a setting with the baseline by a paired t interval of the difference.

    Args:
        scores, baseline: the metric by seed; only seeds that both have are used.
        comparisons: number of settings compared with this baseline. The intervals are simultaneous
            at 95% (Bonferroni: each has the level 1 - 0.05 / comparisons); otherwise some of many
            settings would look better by chance.

    Returns: None if they share no seed. The verdict is "can't tell" if the interval contains 0.
    """
    seeds = sorted(scores.keys() & baseline.keys())
    if not seeds:
        return None
    confidence = 1 - (1 - CONFIDENCE) / comparisons
    pairs = [(scores[seed], baseline[seed]) for seed in seeds]
    # Rounding errors would else be reported as a difference with 16 decimals.
    differences = [0.0 if math.isclose(a, b, rel_tol=ROUNDING) else a - b for a, b in pairs]
    difference = mean_interval(differences, confidence)
    if not abs(difference.mean) > difference.half_width:
        return Comparison(difference, CANT_TELL)
    return Comparison(difference, BETTER if (difference.mean > 0) == higher_is_better else WORSE)
