"""Pages that clusters are fitted to: few of each template, and near-duplicates once.

A template with hundreds of pages would otherwise be a cluster of its own, and so would a page that
the shards hold a hundred times.
"""

from __future__ import annotations

import numpy as np

MAX_FITTED = 8192  # pages; bounds time and memory, whatever the number of pages is
MAX_PER_TEMPLATE = 32  # pages
NEAR_DUPLICATE = 0.1  # distance of embeddings, which lies between 0 and 2
CHUNK = 1024  # pages whose distances to all others are in memory at once


def page_groups(templates: np.ndarray) -> np.ndarray:
    """Return a group for each page: its template; a page without one is a group of its own.

    Args:
        templates: int64 (N,), -1 for none.

    Returns: int64 (N,), numbers from 0 without gaps.
    """
    own = -1 - np.arange(len(templates))
    return np.unique(np.where(templates >= 0, templates, own), return_inverse=True)[1]


def choose_pages(groups: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Return random pages, at most `MAX_PER_TEMPLATE` of a group and `limit` in all: int64 (M,).

    The first of every group come first, then the second ones, and so on, so that the first pages of
    the result are also of as many groups as possible.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    by_group = np.argsort(groups[order], kind="stable")
    grouped = groups[order][by_group]
    starts = np.flatnonzero(np.diff(grouped, prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    rank = np.empty_like(by_group)
    rank[by_group] = np.arange(len(groups)) - np.repeat(starts, sizes)
    chosen = np.argsort(rank, kind="stable")
    return order[chosen[: (rank < MAX_PER_TEMPLATE).sum()][:limit]]


def without_near_duplicates(vectors: np.ndarray, limit: float = NEAR_DUPLICATE) -> np.ndarray:
    """Return which pages are not within `limit` of an earlier page that was kept: bool (N,).

    Args:
        vectors: float32 (N, E).
    """
    kept = np.zeros(len(vectors), bool)
    lengths = np.square(vectors).sum(axis=1)
    for first in range(0, len(vectors), CHUNK):
        part = slice(first, min(first + CHUNK, len(vectors)))
        candidates = np.append(np.flatnonzero(kept[:first]), np.arange(first, part.stop))
        squares = lengths[part, None] + lengths[candidates]
        squares -= 2 * vectors[part] @ vectors[candidates].T
        is_near = squares <= limit**2
        for row in range(part.stop - first):
            page = first + row
            earlier = candidates[is_near[row]]
            kept[page] = not kept[earlier[earlier < page]].any()
    return kept
