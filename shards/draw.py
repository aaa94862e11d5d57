"""Boxes to images: exactly area-antialiased nesting depth, for a whole batch at once.

The depth of a pixel is the sum over boxes of the share of the pixel that each one covers. That
share is a product of one factor along x and one along y, and each factor is a running sum of four
impulses: +1 at the box's first edge and -1 at its last, each split between the two pixels around it
in proportion. So a box is sixteen impulses, and the image is their running sum along both axes.
"""

import torch
from torch import Tensor

MAX_DEPTH = 40
"""The nesting depth that is drawn as 1."""

_FRACTION_BITS = 16
_ONE = 1 << _FRACTION_BITS


def place(boxes: Tensor, owner: Tensor, canvas: Tensor, tops: Tensor, width: int) -> Tensor:
    """Canvas pixels to image pixels: scaled to the image's width, from the window's first row on.

    Args:
        boxes: (T, 4) x0, y0, x1, y1 in canvas pixels.
        owner: Long (T,), the sample of each box.
        canvas: (B, 2) width and height of each canvas in pixels.
        tops: Long (B,), the first row of each window in the scaled page.
        width: the image's width in pixels.

    Returns: float64 (T, 4). In float32 an edge 2,000 rows down would be off by 1e-4 pixels, and a
    pixel where ten nested boxes share it by more than 1e-5.
    """
    scale = width / canvas[:, 0].double()
    placed = boxes.double() * scale[owner].unsqueeze(1)
    placed[:, 1::2] -= tops[owner].unsqueeze(1)
    return placed


def draw(boxes: Tensor, owner: Tensor, heights: Tensor, size: tuple[int, int]) -> Tensor:
    """Nesting depth / 40 of every pixel, antialiased by area, clipped to [0, 1].

    Args:
        boxes: float (T, 4) x0, y0, x1, y1 in image pixels; what lies outside the page isn't drawn.
        owner: Long (T,), the sample of each box, in any order.
        heights: Long (B,), the rows of each page; rows below are 0.
        size: (H, W) of the images.

    Returns: float32 (B, 1, H, W).
    """
    height, width = size
    x = boxes[:, 0::2].clamp(0, width)
    y = boxes[:, 1::2].clamp_min(0).minimum(heights.clamp_max(height)[owner].unsqueeze(1))
    depth = _depth_by_running_sums(x, y, owner, len(heights), size)
    # A tensor, since CUDA multiplies by the reciprocal of a number, which is not exactly n / 40.
    full = torch.full((), float(MAX_DEPTH), device=boxes.device)
    return depth.div_(full).clamp_max_(1.0).unsqueeze(1)


def _depth_by_running_sums(
    x: Tensor, y: Tensor, owner: Tensor, samples: int, size: tuple[int, int]
) -> Tensor:
    """Depth (B, H, W) from edges x, y (T, 2), in fixed point: nothing drifts, no order matters."""
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
    return total.float().mul_(2.0 ** (-2 * _FRACTION_BITS))


def _impulses(edges: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Where (T, 4) and how strong (T, 4) the impulses are whose running sum is the coverage.

    Edges (T, 2) lie in [0, length]; positions are in the same range, weights in 2^-16.
    """
    fixed = edges.mul(_ONE).round().long()
    # The last edge is the end of the last pixel: it must not reach beyond the impulse after that.
    before = fixed.bitwise_right_shift(_FRACTION_BITS).clamp_max(length - 1)
    after = fixed - before.mul(_ONE)
    weights = torch.cat([_ONE - after[:, :1], after[:, :1], after[:, 1:] - _ONE, -after[:, 1:]], 1)
    positions = torch.stack([before, before + 1], 2).flatten(1)
    return positions, weights
