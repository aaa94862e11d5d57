"""Drawing of boxes: nesting depth with exact area antialiasing, for a whole batch at once.

The depth of a pixel is the sum over boxes of the share of the pixel that each box covers. That
share is the product of one factor along x and one along y. Edges are in fixed point, 2^-16 pixels,
so between edges the sum is an exact whole number for any number of boxes and rows.

On a GPU each factor is a running sum of impulses: +1 at the first edge of the box and -1 at its
last, each split in proportion between the two pixels around it. A box is sixteen impulses, and the
image is their running sum along both axes. On a CPU `shards.reading.draw_rows` gives the same image
faster.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.profiler import record_function

from shards.format.layout import MAX_DEPTH
from shards.reading.draw_rows import FRACTION_BITS, ONE, draw_by_rows

_MAX_ROWS = 1 << 26
"""Boxes times rows up to which a CPU draws row by row; it takes 3 GB of memory at this limit."""

Style = Literal["filled", "outline"]


def place(boxes: Tensor, owner: Tensor, canvas: Tensor, tops: Tensor, width: int) -> Tensor:
    """Convert boxes from canvas to image pixels: scale them to the width and shift them by `tops`.

    Args:
        boxes: (T, 4) x0, y0, x1, y1 in canvas pixels.
        owner: Long (T,), the sample of each box.
        canvas: (B, 2) width and height of each canvas in pixels.
        tops: Long (B,), the first row of each window in the scaled page.
        width: the image's width in pixels.

    Returns: float64 (T, 4). In float32 an edge at row 2,000 would be wrong by 1e-4 pixels, and a
    pixel with the edges of ten nested boxes by more than 1e-5.
    """
    scale = width / canvas[:, 0].double()
    placed = boxes.double() * scale[owner].unsqueeze(1)
    placed[:, 1::2] -= tops[owner].unsqueeze(1)
    return placed


@record_function("draw")
def draw(
    boxes: Tensor,
    owner: Tensor,
    heights: Tensor,
    size: tuple[int, int],
    style: Style = "filled",
) -> Tensor:
    """Return images of boxes, antialiased by area.

    Args:
        boxes: float (T, 4) x0, y0, x1, y1 in image pixels. Boxes are clipped to the page; a box
            whose last edge is not beyond its first is not drawn.
        owner: Long (T,), the sample of each box, in any order.
        heights: Long (B,), the rows of each page; rows below are 0.
        size: (H, W) of the images, at most 32,767 each.
        style: "filled" draws nesting depth / 40; "outline" a line of one pixel inside every border.

    Returns: float32 (B, 1, H, W), clipped to [0, 1].
    """
    white = float(MAX_DEPTH)
    if style == "outline":
        boxes, owner, white = _strips(boxes), owner.repeat(4), 1.0
    height, width = size
    x = _fixed_point(boxes[:, 0::2].clamp(0, width))
    bottom = heights.clamp_max(height)[owner].unsqueeze(1)
    y = _fixed_point(boxes[:, 1::2].clamp_min(0).minimum(bottom))
    if boxes.device.type == "cpu" and len(boxes) * height <= _MAX_ROWS:
        return draw_by_rows(x, y, owner, white, len(heights), height, width).unsqueeze(1)
    return draw_by_running_sums(x, y, owner, white, len(heights), size).unsqueeze(1)


def _strips(boxes: Tensor) -> Tensor:
    """Return the strips of one pixel inside each border: (4 T, 4), ordered by side, then by box.

    The sides are upper, lower, left and right. In a box less than two pixels wide or high, strips
    that would overlap are inverted, so that they are not drawn.
    """
    x0, y0, x1, y1 = boxes.unbind(1)
    upper, lower = (y0 + 1).minimum(y1), (y1 - 1).maximum(y0 + 1)
    left, right = (x0 + 1).minimum(x1), (x1 - 1).maximum(x0 + 1)
    strips = [
        [x0, y0, x1, upper],
        [x0, lower, x1, y1],
        [x0, upper, left, lower],
        [right, upper, x1, lower],
    ]
    return torch.cat([torch.stack(strip, 1) for strip in strips])


def _fixed_point(edges: Tensor) -> Tensor:
    """Convert edges (T, 2) to Long in 2^-16 pixels; a last edge is at least the first."""
    fixed = edges.mul(ONE).round().long()
    return torch.cat([fixed[:, :1], fixed.amax(1, keepdim=True)], 1)


def draw_by_running_sums(
    x: Tensor, y: Tensor, owner: Tensor, white: float, samples: int, size: tuple[int, int]
) -> Tensor:
    """Return depth / white, at most 1: float32 (B, H, W), from edges as in `draw_by_rows`."""
    rows, columns = size[0] + 1, size[1] + 1
    at_x, weight_x = _impulses(x, size[1])
    at_y, weight_y = _impulses(y, size[0])
    row = owner.unsqueeze(1) * rows + at_y
    at = row.unsqueeze(2) * columns + at_x.unsqueeze(1)
    weight = weight_y.unsqueeze(2) * weight_x.unsqueeze(1)
    total = torch.zeros(samples * rows * columns, dtype=torch.long, device=x.device)
    total.scatter_add_(0, at.flatten(), weight.flatten())
    total = total.view(samples, rows, columns)[:, :-1, :-1]
    total = total.cumsum_(2).cumsum_(1)
    depth = total.float().mul_(2.0 ** (-2 * FRACTION_BITS))
    # A tensor: CUDA multiplies by the reciprocal of a Python number, which is not exactly n / 40.
    return depth.div_(torch.full((), white, device=x.device)).clamp_max_(1.0)


def _impulses(edges: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return position and weight, Long (T, 4) each, of the impulses whose running sum is coverage.

    Positions are in [0, length], weights in 2^-16.
    """
    # An edge at the very end is split into 0 and 1, not 1 and 0: no pixel follows the next one.
    before = edges.bitwise_right_shift(FRACTION_BITS).clamp_max(length - 1)
    after = edges - before * ONE
    weights = torch.cat([ONE - after[:, :1], after[:, :1], after[:, 1:] - ONE, -after[:, 1:]], 1)
    positions = torch.stack([before, before + 1], 2).flatten(1)
    return positions, weights
