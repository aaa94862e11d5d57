"""Drawing on a CPU: each distinct row is drawn once and copied to all places where it occurs.

The rows of a page change only at edges of boxes. The edges cut a page into runs of equal rows; each
run is drawn as the weighted sum of the column coverage of its boxes. On real pages, 1,024 rows
high, one row in six is distinct, with about ten boxes in each.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FRACTION_BITS = 16
ONE = 1 << FRACTION_BITS
"""One pixel in the fixed point of the edges."""


@torch.library.custom_op("wireframe::draw_by_rows", mutates_args=(), device_types="cpu")
def draw_by_rows(
    x: Tensor, y: Tensor, owner: Tensor, white: float, samples: int, height: int, width: int
) -> Tensor:
    """Return depth / white, at most 1: float32 (samples, height, width).

    A custom operator, because the number of distinct rows is unknown for fake and traced tensors.

    Args:
        x, y: first and last edges, Long (T, 2) in 2^-16 pixels, in order and within the image.
        owner: Long (T,), the sample of each box, in any order.
    """
    run_of_row, box, weight, offsets = _rows(y.numpy(), owner.numpy(), samples, height)
    distinct = F.embedding_bag(
        torch.from_numpy(box),
        _column_coverage(x, width),
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(weight),
        include_last_offset=True,
    )
    distinct.div_(white).clamp_max_(1.0)
    # The indices are int32: with int64 this copy took ten times as long.
    rows = distinct.index_select(0, torch.from_numpy(run_of_row))
    return rows.view(samples, height, width)


@draw_by_rows.register_fake
def _(
    x: Tensor, y: Tensor, owner: Tensor, white: float, samples: int, height: int, width: int
) -> Tensor:
    return x.new_empty((samples, height, width), dtype=torch.float32)


def _rows(
    y: np.ndarray, owner: np.ndarray, samples: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the runs of equal rows, and the boxes in each.

    Returns:
        the run of every row, int32 (samples * height,);
        the boxes of all runs one after another, int32 (P,);
        the share of the run's rows that each of these boxes covers, float32 (P,), scaled by 2^-16
            because the share of the columns is in units of 2^-16;
        the start of each run's boxes, and the end of the last run's, int32 (runs + 1,).
    """
    row_0 = owner[:, None] * height
    floor = (y >> FRACTION_BITS) + row_0
    ceil = (y + (ONE - 1) >> FRACTION_BITS) + row_0
    is_first = np.zeros(samples * height + 1, dtype=bool)
    is_first[::height] = True
    is_first[floor] = True
    is_first[ceil] = True
    run_of_row = np.cumsum(is_first, dtype=np.int32) - 1
    runs = int(run_of_row[-2]) + 1

    begin = run_of_row[floor[:, 0]]
    count = np.where(y[:, 0] < y[:, 1], run_of_row[ceil[:, 1]] - begin, 0)
    start = np.cumsum(count, dtype=np.int32) - count
    box = np.repeat(np.arange(len(y), dtype=np.int32), count)
    run = np.arange(len(box), dtype=np.int32) + np.repeat(begin - start, count)

    # A box covers the rows of its runs fully, except its first and last row, which are runs of one
    # row each.
    weight = np.full(len(box), 2.0**-FRACTION_BITS, dtype=np.float32)
    drawn = count > 0
    first, last = y[drawn].T
    start, end = start[drawn], (start + count)[drawn] - 1
    scale = np.float32(2.0 ** (-2 * FRACTION_BITS))
    weight[end] = (last - np.maximum(first, last - 1 & -ONE)).astype(np.float32) * scale
    weight[start] = (np.minimum(last, (first & -ONE) + ONE) - first).astype(np.float32) * scale

    # The smallest type that fits: numpy sorts 16 bits by radix, six times as fast as 32.
    order = np.argsort(run.astype(np.min_scalar_type(runs)), kind="stable")
    offsets = np.zeros(runs + 1, dtype=np.int32)
    np.cumsum(np.bincount(run, minlength=runs), out=offsets[1:])
    return run_of_row[:-1], box[order], weight[order], offsets


def _column_coverage(x: Tensor, width: int) -> Tensor:
    """Return the share of every column that each box covers, in 2^-16: float32 (T, width)."""
    first, last = x.int().split(1, 1)
    left = torch.arange(width, dtype=torch.int32) * ONE
    covered = torch.minimum(last, left + ONE).sub_(torch.maximum(first, left))
    return covered.clamp_min_(0).float()
