"""Neighbours of all pages, and the map: a projection of the embedding to two dimensions."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch

NEIGHBOURS = 15  # of a page, itself not counted
MOST_COMPARED = 30_000  # pages; every pair of them is compared, of more pages only likely pairs
ROWS = 256  # pages that are compared with all others at once
FEWEST_FOR_UMAP = 16  # pages


class Neighbours(NamedTuple):
    """The nearest other pages of each page, nearest first.

    Attributes:
        rows: int32 (N, K), K at most `NEIGHBOURS`.
        distances: float32 (N, K), 0 to 2, Euclidean distances of embeddings, as of `search`.
    """

    rows: np.ndarray
    distances: np.ndarray


def find_neighbours(vectors: np.ndarray) -> Neighbours:
    """Return the neighbours of vectors float32 (N, E) of length 1.

    Above `MOST_COMPARED` pages they are found by nearest-neighbour descent (Dong et al. 2011),
    which misses some.
    """
    count = min(NEIGHBOURS, len(vectors) - 1)
    if count < 1:
        return Neighbours(np.zeros((len(vectors), 0), np.int32), np.zeros((len(vectors), 0), "f4"))
    if len(vectors) <= MOST_COMPARED:
        return _compare_all(torch.from_numpy(np.asarray(vectors)), count)
    from pynndescent import NNDescent

    index = NNDescent(
        vectors, metric="euclidean", n_neighbors=count + 1, random_state=0, low_memory=True
    )
    rows, distances = index.neighbor_graph
    return _without_itself(rows, distances)


def _compare_all(vectors: torch.Tensor, count: int) -> Neighbours:
    rows, distances = [], []
    for first in range(0, len(vectors), ROWS):
        part = vectors[first : first + ROWS]
        similarity = part @ vectors.T
        places = torch.arange(len(part))
        similarity[places, first + places] = -2  # a page is not its own neighbour
        nearest, found = similarity.topk(count, dim=1)
        distances.append((2 - 2 * nearest).clamp_min_(0).sqrt_())
        rows.append(found.int())
    return Neighbours(torch.cat(rows).numpy(), torch.cat(distances).numpy())


def _without_itself(rows: np.ndarray, distances: np.ndarray) -> Neighbours:
    """Remove each page from its own (N, K + 1) neighbours: the last one if it is not among them."""
    own = rows == np.arange(len(rows))[:, None]
    own[~own.any(axis=1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return Neighbours(
        rows[~own].reshape(shape).astype(np.int32), distances[~own].reshape(shape).astype("f4")
    )


def project(vectors: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """Return the places of pages on the map: float32 (N, 2), the same in every call.

    UMAP (McInnes, Healy and Melville 2018) of the graph of neighbours, from the first two principal
    components; of very few pages the components alone.
    """
    if len(vectors) < FEWEST_FOR_UMAP:
        return _components(vectors)
    import umap

    own = np.arange(len(vectors), dtype=np.int32)[:, None]
    graph = np.hstack([own, neighbours.rows])
    distances = np.hstack([np.zeros(own.shape, np.float32), neighbours.distances])
    reducer = umap.UMAP(
        n_neighbors=graph.shape[1],
        metric="euclidean",  # of vectors of length 1: the order of cosines
        init="pca",
        random_state=0,
        n_jobs=1,
        precomputed_knn=(graph, distances),
        force_approximation_algorithm=True,  # use the given graph for few pages, too
    )
    with warnings.catch_warnings():
        # It warns that pages cannot be added to the map later.
        warnings.simplefilter("ignore", UserWarning)
        return reducer.fit_transform(vectors).astype(np.float32)


def _components(vectors: np.ndarray) -> np.ndarray:
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1]))).astype(np.float32)
