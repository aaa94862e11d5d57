"""Clusters of all pages: fitted to a bounded subset, then assigned in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shards.errors import UserError
from vaetrain.clustering.methods import METHODS, NOISE, Centres, Fitted, fit_clusters
from vaetrain.clustering.quality import (
    LEVEL,
    MAX_SEARCHED,
    PageDistances,
    Search,
    agreement_of_halves,
    compare_sizes,
    steps,
)
from vaetrain.clustering.subset import MAX_FITTED, choose_pages, without_near_duplicates
from vaetrain.clustering.vectors import Vectors

STARTS = 10  # of the final clustering; the search makes hundreds, from one start each
MIN_PAGES = 10  # that are fitted to
MIN_TEMPLATES = 8  # with fewer, every page counts for itself: halves of three say nothing
MAX_MEDOID = 2048  # fitted pages of a cluster that its medoid is found among


@dataclass(frozen=True)
class ClusterOptions:
    """Settings of a clustering.

    Attributes:
        method: key of `METHODS`.
        clusters: their number; None: found by `compare_sizes`.
        by_page: every page counts for itself, not for its template.
        seed: of all random choices.
    """

    method: str = "kmeans"
    clusters: int | None = None
    by_page: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Clustering:
    """Clusters of N pages, numbered from the largest, 0 to K - 1.

    Attributes:
        options: `by_page` is also set if there are too few templates.
        labels: int32 (N,), cluster, or `NOISE`.
        distances: float32 (N,), to the centre of the cluster; of noise, to the nearest centre.
        probabilities: float32 (N,), that the page belongs to its cluster: of k-means the share of
            the clusterings of halves that put it there, of a mixture the posterior, of HDBSCAN the
            strength of the membership.
        medoids: int64 (K,), row of the fitted page with the smallest sum of distances.
        stabilities: float64 (K,), see `agreement_of_halves`; nan for a single cluster.
        silhouette: of the clusters on the pages that were searched, see `PageDistances`.
        search: how their number was found, and whether there are clusters.
        fitted: number of pages that were fitted to.
        near_duplicates: pages that were not fitted to, because they repeat another.
    """

    options: ClusterOptions
    labels: np.ndarray
    distances: np.ndarray
    probabilities: np.ndarray
    medoids: np.ndarray
    stabilities: np.ndarray
    silhouette: float
    search: Search
    fitted: int
    near_duplicates: int

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.medoids)

    @property
    def verdict(self) -> str:
        """One sentence about what was found."""
        best = self.search.best
        if self.search.has_structure:
            return (
                f"{self.count} clusters, which one Gaussian does not explain (p <= {LEVEL:g}): "
                f"silhouette {self.silhouette:.3f} (Gaussian {best.null_silhouette:.3f}), "
                f"stability {best.stability:.2f} (Gaussian {best.null_stability:.2f})"
            )
        found = "one cluster" if self.options.clusters is None else f"{self.count} clusters"
        return (
            "no structure: cut into clusters, the pages look no different from one Gaussian "
            f"(p = {self.search.p:.2f}, silhouette {best.silhouette:.3f}, Gaussian "
            f"{best.null_silhouette:.3f}); {found} written"
        )


def cluster_pages(
    vectors: Vectors,
    groups: np.ndarray,
    options: ClusterOptions,
    progress: Callable[..., object] | None = None,
) -> Clustering:
    """Cluster any number of pages in bounded memory.

    Args:
        vectors: float32 (N, E).
        groups: int64 (N,), see `subset.page_groups`.
        progress: called with the name of a part of the work and its number of steps; returns the
            function to call after each.

    Raises UserError if there are too few pages for the request.
    """
    method, start = METHODS[options.method], progress or (lambda name, total: lambda: None)
    if options.by_page or len(np.unique(groups)) < MIN_TEMPLATES:
        options, groups = replace(options, by_page=True), np.arange(len(vectors))
    chosen = choose_pages(groups, MAX_FITTED, options.seed)
    pages = vectors.rows(chosen)
    is_kept = without_near_duplicates(pages)
    chosen, pages, repeated = chosen[is_kept], pages[is_kept], int((~is_kept).sum())
    sizes = _sizes(options, len(chosen), repeated)
    searched = slice(0, MAX_SEARCHED)
    search = compare_sizes(
        method,
        pages[searched],
        groups[chosen[searched]],
        sizes,
        options.seed,
        start("comparing sizes", steps(sizes)),
    )
    if search.has_structure or options.clusters is not None:
        # The smallest size of a cluster is one of the pages that were searched.
        fitted = searched if method.finds_count else slice(None)
        final = fit_clusters(
            method,
            pages[fitted],
            groups[chosen[fitted]],
            search.best.size,
            options.seed,
            STARTS,
        )
    else:
        final = Centres(pages.mean(axis=0, keepdims=True))
    fitted_labels, _ = final.assign(pages)
    stabilities, matches = agreement_of_halves(
        fitted_labels[searched],
        final.count,
        [(half.assign(pages[searched])[0], half.count) for half in search.halves],
    )
    centres = _centres(final, pages, fitted_labels)
    labels, distances, probabilities = _assign_all(
        vectors, final, centres, search.halves, matches, start("assigning", len(vectors.parts))
    )
    order = np.argsort(-np.bincount(labels[labels >= 0], minlength=final.count), kind="stable")
    rank = np.full(final.count + 1, NOISE, np.int32)
    rank[order] = np.arange(final.count)
    return Clustering(
        options,
        rank[labels],
        distances,
        probabilities,
        chosen[_medoids(pages, fitted_labels, final.count)[order]],
        stabilities[order] if final.count > 1 else np.full(1, np.nan),
        PageDistances(pages[searched], groups[chosen[searched]]).silhouette(
            fitted_labels[searched], final.count
        ),
        search,
        len(chosen),
        repeated,
    )


def _sizes(options: ClusterOptions, fitted: int, repeated: int) -> list[int]:
    """Return the sizes to try; raise UserError if there are too few pages for them."""
    method = METHODS[options.method]
    if fitted < MIN_PAGES:
        raise UserError(
            f"{fitted} pages to cluster ({repeated} near-duplicates of them are left out), at "
            f"least {MIN_PAGES} are needed; name other shards"
        )
    if options.clusters is None:
        return method.sizes(min(fitted, MAX_SEARCHED))
    if options.clusters > fitted // 2:
        raise UserError(
            f"--clusters: is {options.clusters}, at most {fitted // 2} are possible with {fitted} "
            "pages to fit to (few of each template, near-duplicates once); --by-page uses more"
        )
    return [options.clusters]


def _assign_all(
    vectors: Vectors,
    final: Fitted,
    centres: np.ndarray,
    halves: list[Fitted],
    matches: list[np.ndarray],
    advance: Callable[[], object],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cluster, distance and probability of every page."""
    labels = np.empty(len(vectors), np.int32)
    distances, probabilities = (np.empty(len(vectors), np.float32) for _ in range(2))
    for first, rows in vectors.chunks():
        part = slice(first, first + len(rows))
        labels[part], certain = final.assign(rows)
        if certain is None and final.count > 1:
            votes = [
                match[half.assign(rows)[0]] == labels[part]
                for half, match in zip(halves, matches, strict=True)
            ]
            certain = np.mean(votes, axis=0)
        probabilities[part] = 1.0 if certain is None else certain
        squares = np.square(rows).sum(axis=1)[:, None] - 2 * rows @ centres.T
        squares += np.square(centres).sum(axis=1)
        own = labels[part].astype(np.int64)
        own = np.where(own >= 0, own, squares.argmin(axis=1))
        distances[part] = np.sqrt(squares[np.arange(len(rows)), own].clip(min=0))
        advance()
    return labels, distances, probabilities


def _centres(final: Fitted, pages: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the centres, float32 (K, E): of k-means its own, else the means of fitted pages."""
    if isinstance(final, Centres):
        return final.centres
    return np.stack([pages[labels == cluster].mean(axis=0) for cluster in range(final.count)])


def _medoids(pages: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the row of each cluster's medoid, int64 (K,)."""
    found = np.empty(count, np.int64)
    for cluster in range(count):
        rows = np.flatnonzero(labels == cluster)[:MAX_MEDOID]
        own = pages[rows]
        lengths = np.square(own).sum(axis=1)
        squares = lengths[:, None] + lengths - 2 * own @ own.T
        found[cluster] = rows[np.sqrt(squares.clip(min=0)).sum(axis=1).argmin()]
    return found
