"""Made-up embeddings with known clusters."""

from __future__ import annotations

import numpy as np

DIMENSIONS = 8


def kinds_of_pages(kinds: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return `each` embeddings of every kind, float32 (N, 8), and their kinds, int64 (N,)."""
    random = np.random.default_rng(seed)
    kind = np.repeat(np.arange(kinds), each)
    centres = 2 * np.eye(kinds, DIMENSIONS)
    pages = centres[kind] + 0.2 * random.standard_normal((len(kind), DIMENSIONS))
    return pages.astype(np.float32), kind


def one_gaussian(count: int, seed: int = 0) -> np.ndarray:
    """Return embeddings without clusters, longer along some axes: float32 (N, 8)."""
    random = np.random.default_rng(seed)
    pages = random.standard_normal((count, DIMENSIONS)) * np.linspace(1, 0.3, DIMENSIONS)
    return pages.astype(np.float32)
