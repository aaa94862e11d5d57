"""Whether pages that are alike lie together: neighbours and clusters.

A page's neighbours are always pages of *other templates*: pages of one template are near-copies,
and among them is the page itself at another width. A page that names none has one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shards.format.index import Index
from shards.format.layout import NO_LABEL

KNN_NEIGHBOURS = 5  # neighbours that vote on a page's label
RETRIEVED = 10  # pages a search shows
CHUNK = 512  # queries whose distances to all pages are held at once
EXACT_DIMENSIONS = 1024  # beyond, distances come from a matrix product
NO_TEMPLATE = ""
KMEANS_STARTS, KMEANS_SEED = 10, 0


@dataclass(frozen=True)
class PageLabels:
    """What pages are: labels and templates as numbers, Long (N,) each; -1 where there is none."""

    labels: Tensor
    templates: Tensor

    @classmethod
    def from_index(cls, index: Index, ids: Tensor) -> PageLabels:
        """The names of these samples of an index."""
        rows = index.table[ids.numpy()]
        return cls(
            _numbers(rows["label"], index.labels, NO_LABEL),
            _numbers(rows["template"], index.templates, NO_TEMPLATE),
        )


def _numbers(column: np.ndarray, names: list[str], none: str) -> Tensor:
    numbers = torch.from_numpy(column.astype(np.int64))
    return numbers.masked_fill(numbers == names.index(none), -1) if none in names else numbers


def label_metrics(vectors: Tensor, names: PageLabels) -> dict[str, float]:
    """The metrics that need labels, by name; pages without a label are left out.

    Args:
        vectors: (N, D), one vector per page, raw `mu` for instance.

    Returns: `knn_label_accuracy`, `precision_at_10`, `nmi`, `ari` and `ami`, as far as the pages
        allow: there must be two labels, and pages of two templates.
    """
    known = names.labels >= 0
    vectors, labels, templates = vectors[known], names.labels[known], names.templates[known]
    if len(labels.unique()) < 2:
        return {}
    neighbours = nearest_of_other_templates(vectors, templates, RETRIEVED)
    metrics = clustering(vectors, labels)
    if (neighbours >= 0).any():
        metrics["knn_label_accuracy"] = knn_accuracy(neighbours[:, :KNN_NEIGHBOURS], labels)
        metrics["precision_at_10"] = retrieval_precision(neighbours, labels)
    return metrics


def nearest_of_other_templates(
    vectors: Tensor, templates: Tensor, count: int, asked: Tensor | None = None
) -> Tensor:
    """Each page's nearest pages of other templates, by Euclidean distance, nearest first.

    Args:
        vectors: (N, D).
        templates: Long (N,); -1: a template of the page's own.
        count: how many are wanted.
        asked: Long (Q,), rows of the pages whose neighbours are wanted; None: of all.

    Returns: Long (Q, count), rows of `vectors`; the lower row first where distances are equal, and
        -1 where there are no more pages.
    """
    vectors = vectors.double()
    exact = vectors.shape[1] <= EXACT_DIMENSIONS
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    row = torch.arange(len(vectors))
    asked = row if asked is None else asked
    found = torch.full((len(asked), count), -1)
    for first in range(0, len(asked), CHUNK):
        part = asked[first : first + CHUNK]
        distances = torch.cdist(vectors[part], vectors, compute_mode=mode)
        same = (templates[part, None] == templates) & (templates[part, None] >= 0)
        distances[same | (row[part, None] == row)] = torch.inf
        nearest = distances.sort(dim=1, stable=True)
        places = nearest.indices[:, :count].masked_fill(nearest.values[:, :count].isinf(), -1)
        found[first : first + CHUNK, : places.shape[1]] = places
    return found


def knn_accuracy(neighbours: Tensor, labels: Tensor) -> float:
    """Share of pages whose label their neighbours' majority tells (Cover and Hart 1967).

    Args:
        neighbours: Long (N, K), nearest first, -1 for none; pages without any are left out.
        labels: Long (N,), at least 0.

    Of labels with as many votes, the one with the nearer neighbour wins.
    """
    votes = torch.where(neighbours >= 0, labels[neighbours], -1)
    counts = (votes[:, :, None] == votes[:, None, :]).sum(dim=2)
    # Among the best counts argmax takes the first, which is the nearest.
    winner = votes.gather(1, counts.masked_fill(votes < 0, 0).argmax(dim=1, keepdim=True))
    asked = (neighbours >= 0).any(dim=1)
    return (winner.squeeze(1) == labels)[asked].double().mean().item()


def retrieval_precision(neighbours: Tensor, labels: Tensor) -> float:
    """Precision at K: the share of retrieved pages with the page's own label, mean over pages.

    Arguments as of `knn_accuracy`; a page with fewer neighbours is asked for those it has.
    """
    there = neighbours >= 0
    hits = (labels[neighbours] == labels[:, None]) & there
    asked = there.any(dim=1)
    return (hits.sum(dim=1)[asked].double() / there.sum(dim=1)[asked]).mean().item()


def clustering(vectors: Tensor, labels: Tensor) -> dict[str, float]:
    """How k-means clusters, as many as there are labels, agree with the labels.

    Returns: `nmi`, mutual information over the mean of the entropies (Strehl and Ghosh 2002, with
        the arithmetic mean), and the two that are 0 for random clusters: `ari` (Hubert and Arabie
        1985) and `ami` (Vinh et al. 2010).
    """
    # Imported only now: it takes a second, and training starts without it.
    from sklearn import metrics
    from sklearn.cluster import KMeans

    means = KMeans(len(labels.unique()), n_init=KMEANS_STARTS, random_state=KMEANS_SEED)
    clusters, labels = means.fit_predict(vectors.numpy()), labels.numpy()
    return {
        "nmi": float(metrics.normalized_mutual_info_score(labels, clusters)),
        "ari": float(metrics.adjusted_rand_score(labels, clusters)),
        "ami": float(metrics.adjusted_mutual_info_score(labels, clusters)),
    }


def retrieval_iou(neighbours: Tensor, boxes: Sequence[np.ndarray]) -> Tensor:
    """Box-IoU of retrieved pages with each page: float64 (N,), nan for pages without neighbours.

    Args:
        neighbours: Long (N, K), -1 for none.
        boxes: of every page, (n, 4) each; see `layout_iou`.
    """
    means = []
    for page, row in enumerate(neighbours.tolist()):
        found = [layout_iou(boxes[page], boxes[other]) for other in row if other >= 0]
        means.append(np.mean(found) if found else np.nan)
    return torch.tensor(means, dtype=torch.float64)


def layout_iou(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How far two pages' boxes lie on one another: from 0 to 1, which only equal pages reach.

    Boxes are paired one to one so that the sum of the pairs' intersections over unions is the
    largest possible (Kuhn 1955); it is divided by the boxes of the page with more of them, so that
    a box without a partner counts 0. The maximum IoU of Kikuchi et al. 2021 (section 4.2), with one
    kind of box, and with pages of different numbers of boxes.

    Args:
        ours, theirs: (n, 4) and (m, 4), x0, y0, x1, y1, of pages scaled to one width.
    """
    # Imported only now: training starts without it.
    from scipy.optimize import linear_sum_assignment

    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    first = np.maximum(ours[:, None, :2], theirs[:, :2])
    last = np.minimum(ours[:, None, 2:], theirs[:, 2:])
    common = (last - first).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ours, theirs)]
    shares = common / (areas[0][:, None] + areas[1] - common)
    pairs = linear_sum_assignment(shares, maximize=True)
    return float(shares[pairs].sum() / max(len(ours), len(theirs)))
