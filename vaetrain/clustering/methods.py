"""Methods of clustering, all of scikit-learn, with one interface.

A new method is a class with the interface of `Method` and an entry of `METHODS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

NOISE = -1
MAX_COMPONENTS = 16  # in which densities are estimated: they mean little in hundreds of dimensions
MIN_SAMPLES = 5  # of HDBSCAN: neighbours that define the density at a page
# More of a cluster's pages than this of one template: it is the template's cluster, not a kind.
LARGEST_SHARE = 0.8
ROUNDS = 5  # of fits without the pages that only one template has


class Fitted(Protocol):
    """Clusters that any pages can be assigned to."""

    count: int

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return cluster and probability of M pages.

        Args:
            vectors: float32 (M, E).

        Returns: int64 (M,), 0 to `count` - 1 or `NOISE`; float64 (M,) in [0, 1], None if the
            method has no probability.
        """

    def without(self, clusters: Sequence[int]) -> Fitted:
        """Return the same without some clusters, whose pages go elsewhere; at least one is kept."""


class Method(Protocol):
    """A method of clustering.

    Attributes:
        finds_count: the method finds the number of clusters, given their smallest size.
    """

    finds_count: bool

    def sizes(self, pages: int) -> list[int]:
        """Return the sizes that are tried for `pages` pages."""

    def fit(self, vectors: np.ndarray, size: int, seed: int, starts: int) -> Fitted:
        """Fit clusters to float32 (N, E).

        Args:
            size: number of clusters, or, if `finds_count`, the smallest size of one.
            starts: random starts, of which the best is kept.
        """


def fit_clusters(
    method: Method, vectors: np.ndarray, groups: np.ndarray, size: int, seed: int, starts: int = 1
) -> Fitted:
    """Fit clusters of which none consists of one group's pages.

    Pages in clusters of one group are left out and the others are fitted again, so that the number
    of clusters stays that which was asked for; the last such clusters are dissolved.

    Args:
        groups: int64 (N,), see `subset.page_groups`.
    """
    kept = np.arange(len(vectors))
    for remaining in reversed(range(1 if method.finds_count else ROUNDS)):
        fitted = method.fit(vectors[kept], size, seed, starts)
        labels, _ = fitted.assign(vectors[kept])
        own = clusters_of_one_group(labels, groups[kept], fitted.count)
        others = kept[~np.isin(labels, own)]
        if not len(own) or not remaining or len(others) < 2 * size:
            break
        kept = others
    if len(own) == fitted.count and len(own):
        sizes = np.bincount(labels[labels >= 0], minlength=fitted.count)
        own = np.delete(own, sizes.argmax())
    return fitted.without(own) if len(own) else fitted


def clusters_of_one_group(labels: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the clusters that are empty or of which one group has over `LARGEST_SHARE`: int64."""
    inside = labels >= 0
    labels, groups = labels[inside], groups[inside]
    span = 1 + groups.max(initial=0)
    pairs, pages = np.unique(labels * span + groups, return_counts=True)
    largest = np.zeros(count, np.int64)
    np.maximum.at(largest, pairs // span, pages)
    sizes = np.bincount(labels, minlength=count)
    return np.flatnonzero((sizes == 0) | (largest > LARGEST_SHARE * sizes))


class Centres:
    """Fitted k-means: a page belongs to the nearest centre."""

    def __init__(self, centres: np.ndarray) -> None:
        self.centres = centres
        self.count = len(centres)

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, None]:
        return nearest(vectors, self.centres)[0], None

    def without(self, clusters: Sequence[int]) -> Centres:
        return Centres(np.delete(self.centres, clusters, axis=0))


class KMeansMethod:
    """K-means (Lloyd 1982) from k-means++ (Arthur and Vassilvitskii 2007), in all dimensions."""

    finds_count = False

    def sizes(self, pages: int) -> list[int]:
        return numbers_of_clusters(pages)

    def fit(self, vectors: np.ndarray, size: int, seed: int, starts: int) -> Centres:
        from sklearn.cluster import KMeans

        means = KMeans(min(size, len(vectors)), n_init=starts, random_state=seed).fit(vectors)
        return Centres(means.cluster_centers_)


class Mixture:
    """Fitted mixture of Gaussians with diagonal covariances, in principal components."""

    def __init__(self, axes: Axes, weights: np.ndarray, means: np.ndarray, variances: np.ndarray):
        self.axes, self.weights, self.means, self.variances = axes, weights, means, variances
        self.count = len(weights)

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from scipy.special import softmax

        rows = self.axes(vectors)[:, None]
        squares = ((rows - self.means) ** 2 / self.variances + np.log(self.variances)).sum(axis=2)
        posterior = softmax(np.log(self.weights) - squares / 2, axis=1)
        return posterior.argmax(axis=1), posterior.max(axis=1)

    def without(self, clusters: Sequence[int]) -> Mixture:
        parts = (self.weights, self.means, self.variances)
        return Mixture(self.axes, *(np.delete(part, clusters, axis=0) for part in parts))


class MixtureMethod:
    """Mixture of Gaussians by expectation maximisation (Dempster, Laird and Rubin 1977)."""

    finds_count = False

    def sizes(self, pages: int) -> list[int]:
        return numbers_of_clusters(pages)

    def fit(self, vectors: np.ndarray, size: int, seed: int, starts: int) -> Mixture:
        from sklearn.mixture import GaussianMixture

        axes = Axes(vectors)
        rows = axes(vectors)
        # The floor keeps a component from shrinking to one page.
        mixture = GaussianMixture(
            min(size, len(vectors)),
            covariance_type="diag",
            reg_covar=0.01 * float(rows.var(axis=0).mean()),
            n_init=starts,
            random_state=seed,
        ).fit(rows)
        return Mixture(axes, mixture.weights_, mixture.means_, mixture.covariances_)


class Density:
    """Fitted HDBSCAN: a page belongs to the cluster of the nearest fitted page, or to none.

    It belongs to none if that page does, or if it is farther away than the pages of the cluster are
    from one another.
    """

    def __init__(
        self, axes: Axes, rows: np.ndarray, labels: np.ndarray, strengths: np.ndarray
    ) -> None:
        self.axes, self.rows, self.labels, self.strengths = axes, rows, labels, strengths
        self.count = int(labels.max(initial=NOISE)) + 1
        self.reach = np.zeros(self.count)
        for cluster in range(self.count):
            own = rows[labels == cluster]
            self.reach[cluster] = np.sqrt(nearest(own, own, skip_self=True)[1].max())

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, squares = nearest(self.axes(vectors), self.rows)
        labels = self.labels[place]
        limit = np.append(self.reach, 0.0)[labels]  # the last is that of noise
        labels = np.where(squares <= limit**2 * (1 + 1e-5) + 1e-9, labels, NOISE)
        return labels, np.where(labels >= 0, self.strengths[place], 0.0)

    def without(self, clusters: Sequence[int]) -> Density:
        kept = np.delete(np.arange(self.count), clusters)
        new = np.full(self.count + 1, NOISE)
        new[kept] = np.arange(len(kept))
        return Density(self.axes, self.rows, new[self.labels], self.strengths)


class DensityMethod:
    """HDBSCAN (Campello, Moulavi and Sander 2013), in principal components."""

    finds_count = True

    def sizes(self, pages: int) -> list[int]:
        return [size for size in (5, 8, 12, 18, 27, 40, 60, 90) if size <= max(5, pages // 8)]

    def fit(self, vectors: np.ndarray, size: int, seed: int, starts: int) -> Density:
        from sklearn.cluster import HDBSCAN

        axes = Axes(vectors)
        rows = axes(vectors)
        size = max(2, min(size, len(rows)))
        found = HDBSCAN(
            min_cluster_size=size, min_samples=min(MIN_SAMPLES, len(rows)), copy=True
        ).fit(rows)
        return Density(axes, rows, np.maximum(found.labels_, NOISE), found.probabilities_)


METHODS: dict[str, Method] = {
    "kmeans": KMeansMethod(),
    "gmm": MixtureMethod(),
    "hdbscan": DensityMethod(),
}


class Axes:
    """The first principal components of vectors, at most `MAX_COMPONENTS`."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.mean = vectors.mean(axis=0)
        centred = vectors - self.mean
        _, axes = np.linalg.eigh(centred.T @ centred)
        self.axes = axes[:, ::-1][:, :MAX_COMPONENTS]

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Project (M, E): (M, K)."""
        return (vectors - self.mean) @ self.axes


def numbers_of_clusters(pages: int) -> list[int]:
    """Return the numbers of clusters that are tried: up to 10 all of them."""
    numbers = (*range(2, 11), 12, 14, 17, 20, 24, 28, 34, 40, 48, 64)
    return [number for number in numbers if number <= max(2, pages // 10)]


def nearest(
    vectors: np.ndarray, centres: np.ndarray, *, skip_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of K centres for M vectors, and the squared distance: (M,) each.

    Args:
        skip_self: the centres are the vectors; a vector is not its own neighbour.
    """
    places, squares = np.zeros(len(vectors), np.int64), np.zeros(len(vectors))
    lengths = np.square(centres).sum(axis=1)
    for first in range(0, len(vectors), 4096):
        part = vectors[first : first + 4096]
        table = lengths - 2 * part @ centres.T
        if skip_self and len(centres) > 1:
            table[np.arange(len(part)), np.arange(first, first + len(part))] = np.inf
        place = table.argmin(axis=1)
        places[first : first + 4096] = place
        squares[first : first + 4096] = np.square(part - centres[place]).sum(axis=1)
    return places, squares
