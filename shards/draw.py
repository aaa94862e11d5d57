"""Boxes to images: exactly area-antialiased nesting depth, for a whole batch at once.

The depth of a pixel is the sum over boxes of the share of the pixel that each one covers, and that
share is a product of one factor along x and one along y. Edges are held in fixed point, 2^-16
pixels, so that between edges the sum is a whole number, however many boxes and rows there are.

On a GPU each factor is a running sum of impulses: +1 at the box's first edge and -1 at its last,
each split between the two pixels around it in proportion. A box is then sixteen impulses, and the
image is their running sum along both axes. On a CPU `shards.draw_rows` gives the same image
sooner.
"""

from typing import Literal

import torch
from torch import Tensor

from shards.layout import MAX_DEPTH

Style = Literal["filled", "outline"]


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


def draw(
    boxes: Tensor,
    owner: Tensor,
    heights: Tensor,
    size: tuple[int, int],
    style: Style = "filled",
) -> Tensor:
    """Images of boxes, antialiased by area.

    Args:
        boxes: float (T, 4) x0, y0, x1, y1 in image pixels. What lies outside the page isn't drawn,
            nor is a box whose last edge isn't beyond its first.
        owner: Long (T,), the sample of each box, in any order.
        heights: Long (B,), the rows of each page; rows below are 0.
        size: (H, W) of the images, at most 32,767 each.
        style: "filled" is nesting depth / 40; "outline" a line of one pixel inside every border.

    Returns: float32 (B, 1, H, W), clipped to [0, 1].
    """
    depth = _depth(boxes, owner, heights, size)
    if style == "outline":
        inner = boxes + boxes.new_tensor([1.0, 1.0, -1.0, -1.0])
        depth -= _depth(inner, owner, heights, size)
    else:
        # A tensor, since CUDA multiplies by the reciprocal of a number: not exactly n / 40.
        depth.div_(torch.full((), float(MAX_DEPTH), device=boxes.device))
    return depth.clamp_max_(1.0).unsqueeze(1)
