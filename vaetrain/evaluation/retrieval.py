"""Retrieval and clustering metrics of page vectors.

A page's neighbours are always pages of *other templates*: pages of one template are near-duplicates
(one of them is the same page at another width). A page without a template has no near-duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from shards.format.index import Index
from shards.format.layout import NO_LABEL
from shards.reading.draw import place
from shards.reading.selection import Selection
from vaetrain.data.loading import EVALUATION_BATCH, PageReader
from vaetrain.data.widths import other_widths
from vaetrain.engines.base import Engine
from vaetrain.evaluation.layout_iou import neighbour_iou

KNN_NEIGHBOURS = 5  # neighbours that vote on a page's label
RETRIEVED = 10  # pages that a search shows
CHUNK = 512  # queries whose distances to all pages are in memory at once
EXACT_DIMENSIONS = 1024  # vectors with more use a matrix product, which rounds the distances
MAX_BOX_QUERIES = 512  # pages whose boxes are compared with those of their neighbours
NO_TEMPLATE = ""
KMEANS_STARTS, KMEANS_SEED = 10, 0


@dataclass(frozen=True)
class PageLabels:
    """Labels and templates of pages as numbers, and their other widths; Long (N,) each.

    Attributes:
        labels, templates: -1 for none.
        others: row of the same page at another width, -1 for none; None: not known.
    """

    labels: Tensor
    templates: Tensor
    others: Tensor | None = None

    @classmethod
    def from_index(cls, index: Index, ids: Tensor) -> PageLabels:
        """Return the labels and templates of these samples of an index."""
        rows = index.table[ids.numpy()]
        return cls(
            _numbers(rows["label"], index.labels, NO_LABEL),
            _numbers(rows["template"], index.templates, NO_TEMPLATE),
        )

    @classmethod
    def from_pages(cls, data: PageReader, ids: Tensor) -> PageLabels:
        """Return them with the other widths, for which the metadata of every page is read."""
        return replace(cls.from_index(data.index, ids), others=other_widths(data, ids))


def _numbers(column: np.ndarray, names: list[str], missing: str) -> Tensor:
    numbers = torch.from_numpy(column.astype(np.int64))
    if missing not in names:
        return numbers
    return numbers.masked_fill(numbers == names.index(missing), -1)


class RetrievalMetrics:
    """Retrieval metrics of embeddings of one set of pages, its boxes included."""

    def __init__(self, data: PageReader, pages: Selection, engine: Engine) -> None:
        """Read the pages' labels and boxes; shards of PNG pages have no boxes."""
        self.engine = engine
        self.ids = torch.from_numpy(pages.ids_at(np.arange(len(pages))))
        self.labels = PageLabels.from_pages(data, self.ids)
        self.boxes = None
        if data.index.header["store"] != "png":
            self.boxes = [
                box for part in self.ids.split(EVALUATION_BATCH) for box in _boxes(data, part)
            ]

    def metrics(self, vectors: Tensor | None) -> dict[str, float]:
        """Return the metrics of one vector a page. Collective.

        Args:
            vectors: (N, D) in ascending order of ids; needed on the main process only.

        Returns: the metrics of `vector_metrics`, and `box_iou_at_10`: the mean `layout_iou` with
            the 10 nearest pages of other templates, over at most `MAX_BOX_QUERIES` evenly spaced
            pages.
        """
        of_main = None
        if self.engine.is_main:
            of_main = vector_metrics(vectors, self.labels), self._neighbours(vectors)
        metrics, neighbours = self.engine.broadcast_object(of_main)
        if self.boxes is None:
            return metrics
        count = min(MAX_BOX_QUERIES, len(self.ids))
        queries = torch.linspace(0, len(self.ids) - 1, count, dtype=torch.float64).round().long()
        queries = queries[self.engine.rank :: self.engine.world_size]
        of_this_rank = torch.full_like(neighbours, -1)
        of_this_rank[queries] = neighbours[queries]
        values = neighbour_iou(of_this_rank, self.boxes)
        defined = values.isfinite()
        sums = torch.stack([values[defined].sum(), defined.double().sum()]).to(self.engine.device)
        total, pages = self.engine.sum(sums).tolist()
        return metrics | ({"box_iou_at_10": total / pages} if pages else {})

    def _neighbours(self, vectors: Tensor) -> Tensor | None:
        """Return the pages whose boxes are compared with each page's; None without boxes."""
        if self.boxes is None:
            return None
        return nearest_of_other_templates(vectors, self.labels.templates, RETRIEVED)


def _boxes(data: PageReader, ids: Tensor) -> list[np.ndarray]:
    """Return each page's boxes in pixels of the model's image, clipped to the image."""
    batch = data.batch_of(ids.numpy())
    placed = place(batch.boxes, batch.owner, batch.canvas, batch.tops, batch.size[1])
    placed[:, 0::2] = placed[:, 0::2].clamp(0, batch.size[1])
    placed[:, 1::2] = placed[:, 1::2].clamp(min=0).minimum(batch.heights[batch.owner, None])
    visible = (placed[:, 2:] > placed[:, :2]).all(dim=1)
    return [placed[visible & (batch.owner == page)].numpy() for page in range(len(ids))]


def vector_metrics(vectors: Tensor, names: PageLabels) -> dict[str, float]:
    """Return the metrics of `label_metrics` and of `width_metrics`, by name.

    Args:
        vectors: (N, D), one vector per page, for example its embedding.
    """
    return label_metrics(vectors, names) | width_metrics(vectors, names.others)


def width_metrics(vectors: Tensor, others: Tensor | None) -> dict[str, float]:
    """Return how many pages have their other width among their nearest pages of all.

    Args:
        vectors: (N, D).
        others: Long (N,), see `PageLabels`; pages without another width are no queries.

    Returns: `viewport_recall_at_1` and `viewport_recall_at_10`; empty without other widths.
    """
    if others is None or (others < 0).all():
        return {}
    queries = (others >= 0).nonzero()[:, 0]
    no_templates = torch.full((len(vectors),), -1)
    found = nearest_of_other_templates(vectors, no_templates, RETRIEVED, queries)
    hits = found == others[queries, None]
    return {
        f"viewport_recall_at_{count}": hits[:, :count].any(dim=1).double().mean().item()
        for count in (1, RETRIEVED)
    }


def label_metrics(vectors: Tensor, names: PageLabels) -> dict[str, float]:
    """Return the metrics that need labels, by name; pages without a label are excluded.

    Args:
        vectors: (N, D), one vector per page, for example raw `mu`.

    Returns: `knn_label_accuracy`, `precision_at_10`, `nmi`, `ari` and `ami`. All need two labels,
        the first two also pages of two templates; undefined metrics are omitted.
    """
    known = names.labels >= 0
    vectors, labels, templates = vectors[known], names.labels[known], names.templates[known]
    if len(labels.unique()) < 2:
        return {}
    neighbours = nearest_of_other_templates(vectors, templates, RETRIEVED)
    metrics = clustering_metrics(vectors, labels)
    if (neighbours >= 0).any():
        metrics["knn_label_accuracy"] = knn_accuracy(neighbours[:, :KNN_NEIGHBOURS], labels)
        metrics["precision_at_10"] = retrieval_precision(neighbours, labels)
    return metrics


def nearest_of_other_templates(
    vectors: Tensor, templates: Tensor, count: int, queries: Tensor | None = None
) -> Tensor:
    """Return each page's nearest pages of other templates by Euclidean distance, nearest first.

    Args:
        vectors: (N, D).
        templates: Long (N,); -1: the page has no template.
        count: number of neighbours.
        queries: Long (Q,), rows of the pages whose neighbours are returned; None: all pages.

    Returns: Long (Q, count), rows of `vectors`. Equal distances are ordered by row; -1 fills up if
        there are fewer pages.
    """
    vectors = vectors.double()
    exact = vectors.shape[1] <= EXACT_DIMENSIONS
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    row = torch.arange(len(vectors))
    queries = row if queries is None else queries
    neighbours = torch.full((len(queries), count), -1)
    for first in range(0, len(queries), CHUNK):
        part = queries[first : first + CHUNK]
        distances = torch.cdist(vectors[part], vectors, compute_mode=mode)
        same = (templates[part, None] == templates) & (templates[part, None] >= 0)
        distances[same | (row[part, None] == row)] = torch.inf
        nearest = distances.sort(dim=1, stable=True)
        rows = nearest.indices[:, :count].masked_fill(nearest.values[:, :count].isinf(), -1)
        neighbours[first : first + CHUNK, : rows.shape[1]] = rows
    return neighbours


def knn_accuracy(neighbours: Tensor, labels: Tensor) -> float:
    """Return the accuracy of a k-nearest-neighbour classifier (Cover and Hart 1967).

    Args:
        neighbours: Long (N, K), nearest first, -1 for none; pages without any are excluded.
        labels: Long (N,), at least 0.

    Ties between labels go to the one with the nearer neighbour.
    """
    votes = torch.where(neighbours >= 0, labels[neighbours], -1)
    counts = (votes[:, :, None] == votes[:, None, :]).sum(dim=2)
    # argmax returns the first of equal counts, which is the nearest neighbour's.
    winner = votes.gather(1, counts.masked_fill(votes < 0, 0).argmax(dim=1, keepdim=True))
    has_neighbours = (neighbours >= 0).any(dim=1)
    return (winner.squeeze(1) == labels)[has_neighbours].double().mean().item()


def retrieval_precision(neighbours: Tensor, labels: Tensor) -> float:
    """Return precision at K: the share of neighbours with the page's own label, mean over pages.

    Arguments as in `knn_accuracy`; a page with fewer neighbours counts with those it has.
    """
    exists = neighbours >= 0
    hits = (labels[neighbours] == labels[:, None]) & exists
    has_neighbours = exists.any(dim=1)
    shares = hits.sum(dim=1)[has_neighbours].double() / exists.sum(dim=1)[has_neighbours]
    return shares.mean().item()


def clustering_metrics(vectors: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the agreement of the labels with as many k-means clusters.

    Returns: `nmi`, mutual information divided by the mean of the entropies (Strehl and Ghosh 2002,
        with the arithmetic mean), and two metrics that are 0 for random clusters: `ari` (Hubert and
        Arabie 1985) and `ami` (Vinh et al. 2010).
    """
    # A local import: it takes a second, and training starts without it.
    from sklearn import metrics
    from sklearn.cluster import KMeans

    means = KMeans(len(labels.unique()), n_init=KMEANS_STARTS, random_state=KMEANS_SEED)
    clusters, labels = means.fit_predict(vectors.numpy()), labels.numpy()
    return {
        "nmi": float(metrics.normalized_mutual_info_score(labels, clusters)),
        "ari": float(metrics.adjusted_rand_score(labels, clusters)),
        "ami": float(metrics.adjusted_mutual_info_score(labels, clusters)),
    }
