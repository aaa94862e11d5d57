"""Number and quality of clusters: silhouette, stability under resampling, and a null hypothesis.

Pages of a template are near-duplicates. So the silhouette compares a page with pages of other
templates only, and resampling draws templates, not pages: a cluster that only one template has is
neither. The null hypothesis is one Gaussian with the covariance of the pages, between templates
and within them: what k-means cuts it into looks like clusters, too. Labels are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vaetrain.clustering.methods import Fitted, Method, fit_clusters

MAX_SEARCHED = 2048  # pages by which sizes are compared
SPLITS = 8  # random halves of the templates; both are clustered
NULL_DRAWS = 19  # one more and the pages are 20: the level of the test is 1 / 20
NULL_SPLITS = 5  # draws that are also split in halves
LEVEL = 0.05
MIN_EXCESS = 0.02  # of the silhouette over that of one Gaussian: less is the shape of a sphere


@dataclass(frozen=True)
class Trial:
    """A size that was tried, see `methods.Method.fit`.

    Attributes:
        clusters: their number.
        stability: mean adjusted Rand index (Hubert and Arabie 1985), -1 to 1, of two clusterings of
            all pages, which were fitted to the two halves of the templates (Lange et al. 2004).
        silhouette: mean (Rousseeuw 1987), -1 to 1, see `PageDistances`.
        null_stability, null_silhouette: means of the same for draws of one Gaussian.
    """

    size: int
    clusters: int
    stability: float
    silhouette: float
    null_stability: float
    null_silhouette: float

    @property
    def excess(self) -> tuple[float, float]:
        """Stability and silhouette beyond those of one Gaussian, at least 0."""
        return (
            max(self.stability - self.null_stability, 0.0),
            max(self.silhouette - self.null_silhouette, 0.0),
        )


@dataclass(frozen=True)
class Search:
    """Result of comparing sizes.

    Attributes:
        trials: all sizes that were tried.
        best: the chosen one.
        p: Monte-Carlo p-value (Besag and Diggle 1977) of the largest excess of the silhouette over
            that of one Gaussian, over all sizes.
        has_structure: whether the pages differ from one Gaussian.
        halves: clusterings of halves of the templates at the best size, two for each split.
    """

    trials: list[Trial]
    best: Trial
    p: float
    has_structure: bool
    halves: list[Fitted]


class PageDistances:
    """Distances of pages, for silhouettes that compare pages of different groups only.

    If every group is one page, it is the usual silhouette.
    """

    def __init__(self, vectors: np.ndarray, groups: np.ndarray) -> None:
        """Compute the distances of float32 (N, E) with groups int64 (N,)."""
        lengths = np.square(vectors).sum(axis=1)
        squares = lengths[:, None] + lengths - 2 * vectors @ vectors.T
        self.distances = np.sqrt(squares.clip(min=0))
        self.distances[groups[:, None] == groups] = 0
        self.groups = np.unique(groups, return_inverse=True)[1]

    def silhouette(self, labels: np.ndarray, count: int) -> float:
        """Return the mean silhouette of a clustering; 0 for a page that is noise or alone."""
        if count < 2:
            return 0.0
        inside = labels >= 0
        member = np.zeros((len(labels), count), np.float32)
        member[inside, labels[inside]] = 1
        of_group = np.zeros((self.groups.max() + 1, count), np.float32)
        np.add.at(of_group, self.groups, member)
        pages = member.sum(axis=0) - of_group[self.groups]
        with np.errstate(divide="ignore", invalid="ignore"):
            means = self.distances @ member / pages
        means[pages == 0] = np.inf
        own = np.where(inside, means[np.arange(len(labels)), labels], np.inf)
        means[np.arange(len(labels)), labels] = np.inf
        other = means.min(axis=1)
        defined = np.isfinite(own) & np.isfinite(other)
        own, other = own[defined], other[defined]
        largest = np.maximum(own, other)
        values = np.divide(other - own, largest, out=np.zeros_like(own), where=largest > 0)
        return float(values.sum() / len(labels))


def compare_sizes(
    method: Method,
    vectors: np.ndarray,
    groups: np.ndarray,
    sizes: Sequence[int],
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> Search:
    """Cluster the pages with each size, compare the results with one Gaussian, choose a size.

    Args:
        vectors, groups: float32 (N, E) and int64 (N,).
        advance: called `steps(sizes)` times.
    """
    runs = []
    for size in sizes:
        runs.append(stability(method, vectors, groups, size, SPLITS, seed))
        advance()
    silhouettes, counts = silhouettes_of(method, vectors, groups, sizes, seed)
    null_silhouettes, null_stabilities = [], []
    for draw in range(NULL_DRAWS):
        null = null_pages(vectors, groups, np.random.default_rng([seed, draw]))
        null_silhouettes.append(silhouettes_of(method, null, groups, sizes, seed)[0])
        if draw < NULL_SPLITS:
            found = [stability(method, null, groups, size, 1, seed + draw)[0] for size in sizes]
            null_stabilities.append(found)
        advance()
    of_null = np.array(null_silhouettes)
    mean = of_null.mean(axis=0)
    trials = [
        Trial(size, count, run[0], float(silhouette), float(unstable), float(of_null_mean))
        for size, count, run, silhouette, unstable, of_null_mean in zip(
            sizes, counts, runs, silhouettes, np.mean(null_stabilities, axis=0), mean, strict=True
        )
    ]
    best = best_trial(trials)
    excess, of_draws = float(np.max(silhouettes - mean)), (of_null - mean).max(axis=1)
    p = float((1 + (of_draws >= excess).sum()) / (1 + NULL_DRAWS))
    has_structure = p <= LEVEL and excess >= MIN_EXCESS and trials[best].clusters > 1
    return Search(trials, trials[best], p, has_structure, runs[best][1])


def best_trial(trials: Sequence[Trial]) -> int:
    """Return the place of the trial with the largest sum of both excesses over one Gaussian.

    Each is divided by its largest over all trials: differences of silhouettes are ten times smaller
    than those of stabilities. Of equal ones, that with fewer clusters is returned.
    """
    excess = np.array([trial.excess for trial in trials], float)
    largest = excess.max(axis=0)
    scores = np.divide(excess, largest, out=np.zeros_like(excess), where=largest > 0).sum(axis=1)
    return min(np.flatnonzero(scores >= scores.max() - 1e-9), key=lambda at: trials[at].clusters)


def steps(sizes: Sequence[int]) -> int:
    """Return how often `compare_sizes` reports progress."""
    return len(sizes) + NULL_DRAWS


def silhouettes_of(
    method: Method, vectors: np.ndarray, groups: np.ndarray, sizes: Sequence[int], seed: int
) -> tuple[np.ndarray, list[int]]:
    """Return the silhouette and the number of clusters at each size."""
    distances = PageDistances(vectors, groups)
    values, counts = [], []
    for size in sizes:
        fitted = fit_clusters(method, vectors, groups, size, seed)
        values.append(distances.silhouette(fitted.assign(vectors)[0], fitted.count))
        counts.append(fitted.count)
    return np.array(values), counts


def stability(
    method: Method, vectors: np.ndarray, groups: np.ndarray, size: int, splits: int, seed: int
) -> tuple[float, list[Fitted]]:
    """Return the stability, see `Trial`, and the clusterings of both halves of each split."""
    from sklearn.metrics import adjusted_rand_score

    values, fits = [], []
    for split in range(splits):
        is_first = random_half(groups, np.random.default_rng([seed, split]))
        pair = [
            fit_clusters(method, vectors[half], groups[half], size, seed + split)
            for half in (is_first, ~is_first)
        ]
        labels = [fitted.assign(vectors)[0] for fitted in pair]
        is_trivial = max(fitted.count for fitted in pair) < 2
        values.append(0.0 if is_trivial else adjusted_rand_score(*labels))
        fits += pair
    return float(np.mean(values)), fits


def random_half(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return which pages are in a random half of the groups: bool (N,), about half of the pages."""
    number = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(number)
    order = random.permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order]
    is_first = np.zeros(len(sizes), bool)
    is_first[order] = before < sizes.sum() / 2
    return is_first[number]


def null_pages(vectors: np.ndarray, groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw pages of one Gaussian that have the same covariances: float32 (N, E).

    The means of the groups, and the pages' differences from them, are replaced by Gaussian
    combinations of all of them.
    """
    number = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(number)
    centre = vectors.mean(axis=0)
    sums = np.zeros((len(sizes), vectors.shape[1]), np.float32)
    np.add.at(sums, number, vectors)
    means = sums / sizes[:, None]
    scaled = (means - centre) * np.sqrt(sizes / len(vectors))[:, None]
    drawn = random.standard_normal((len(sizes), len(sizes)), np.float32) @ scaled
    rests = (vectors - means[number]) / np.sqrt(len(vectors))
    noise = random.standard_normal((len(vectors), len(vectors)), np.float32) @ rests
    return (centre + drawn[number] + noise).astype(np.float32)


def agreement_of_halves(
    labels: np.ndarray, count: int, halves: Sequence[tuple[np.ndarray, int]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Compare each cluster with those of clusterings of halves, on the same pages.

    Args:
        labels: int64 (N,), of the clustering.
        halves: labels, int64 (N,), and number of clusters of each clustering of a half.

    Returns: float64 (count,), the Jaccard index of a cluster with its most similar one, mean over
        the clusterings (Hennig 2007); and for each clustering the most similar cluster of each of
        its clusters, int64, whose last entry stands for noise.
    """
    similarities, matches = [], []
    for other, others in halves:
        overlap = np.zeros((count + 1, others + 1))  # noise is the last row and column
        np.add.at(overlap, (labels, other), 1)
        union = overlap.sum(axis=1, keepdims=True) + overlap.sum(axis=0) - overlap
        jaccard = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)[:-1]
        similarities.append(jaccard[:, :-1].max(axis=1, initial=0))
        match = jaccard.argmax(axis=0)
        match[-1] = -1
        matches.append(match)
    return np.mean(similarities, axis=0), matches
