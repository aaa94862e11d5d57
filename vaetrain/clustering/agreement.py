"""Agreement of clusters with labels, with intervals over templates.

Pages of a template have the same few labels, so templates, not pages, are resampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NAMES = ("nmi", "ari", "ami")
RESAMPLES = 300
MAX_PAGES = 4096  # evenly spaced
QUANTILE = 1.96  # of the normal distribution, for 95%


@dataclass(frozen=True)
class Value:
    """A metric with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def agreement(
    labels: np.ndarray, clusterings: Mapping[str, np.ndarray], groups: np.ndarray, seed: int = 0
) -> dict[str, dict[str, Value]]:
    """Return how well clusterings agree with labels: for each, the metrics of `NAMES`.

    `nmi` is normalised by the mean of the entropies (Strehl and Ghosh 2002), `ari` (Hubert and
    Arabie 1985) and `ami` (Vinh et al. 2010) are 0 for random clusters. With several clusterings,
    the results also hold their differences from the first, by the name `<first> - <other>`; all are
    computed on the same resamples. Intervals are the value plus and minus 1.96 standard deviations
    over resampled templates: the mean over resamples is higher than the value, because a resample
    has fewer different templates.

    Args:
        labels: int64 (N,), -1 for none; such pages are left out.
        clusterings: int64 (N,) each; noise counts as one cluster.
        groups: int64 (N,), see `subset.page_groups`.

    Returns: empty if fewer than two labels or templates have pages.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) > MAX_PAGES:
        known = known[np.linspace(0, len(known) - 1, MAX_PAGES).round().astype(np.int64)]
    labels, groups = labels[known], np.unique(groups[known], return_inverse=True)[1]
    if len(np.unique(labels)) < 2 or len(np.unique(groups)) < 2:
        return {}
    clusterings = {name: each[known] for name, each in clusterings.items()}
    value = {name: _metrics(labels, each) for name, each in clusterings.items()}
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(groups))[:-1])
    random = np.random.default_rng(seed)
    draws: dict[str, list[np.ndarray]] = {name: [] for name in clusterings}
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[n] for n in random.integers(0, len(members), len(members))])
        for name, each in clusterings.items():
            draws[name].append(_metrics(labels[rows], each[rows]))
    drawn = {name: np.array(each) for name, each in draws.items()}
    first, *others = clusterings
    for other in others:
        value[f"{first} - {other}"] = value[first] - value[other]
        drawn[f"{first} - {other}"] = drawn[first] - drawn[other]
    return {name: _with_intervals(value[name], drawn[name]) for name in value}


def _metrics(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the metrics of `NAMES`: float64 (3,)."""
    from sklearn import metrics

    return np.array(
        [
            metrics.normalized_mutual_info_score(labels, clusters),
            metrics.adjusted_rand_score(labels, clusters),
            metrics.adjusted_mutual_info_score(labels, clusters),
        ]
    )


def _with_intervals(value: np.ndarray, drawn: np.ndarray) -> dict[str, Value]:
    half = QUANTILE * drawn.std(axis=0, ddof=1)
    return {
        name: Value(float(value[at]), float(value[at] - half[at]), float(value[at] + half[at]))
        for at, name in enumerate(NAMES)
    }
