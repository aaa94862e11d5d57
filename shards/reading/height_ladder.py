"""The few heights that batches are padded to."""

from __future__ import annotations

import numpy as np


def height_ladder(max_height: int, stride: int) -> np.ndarray:
    """Return the heights that batches are padded to: multiples of `stride`, about four an octave.

    Each new batch shape costs a GPU seconds of algorithm search and fragments its memory, so few
    shapes are used.

    Returns: int64 (K,), ascending; the last is `max_height` rounded up to a multiple of `stride`.
    """
    top = -(-max_height // stride)
    octaves = np.arange(0, 4 * np.log2(top) + 1)
    steps = np.ceil(top * 2.0 ** (-octaves / 4)).astype(np.int64)
    return np.unique(steps) * stride
