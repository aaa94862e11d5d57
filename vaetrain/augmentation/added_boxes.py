"""Boxes that augmentation adds to a page: lines, boxes and blocks of text-like rows.

Each operation has a fixed number of places on a page, filled or empty, so that the number of boxes
does not depend on random draws. An empty place holds boxes without area.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shards.randomness import uniform
from vaetrain.augmentation.operations import Kind
from vaetrain.augmentation.parameters import Parameters, applied_ops

_TEXT_ROWS = 6  # most rows in a block of text
_UNIFORMS = 8  # per place: seven for the shape, the last decides whether the place is filled


def add_boxes(
    heights: Tensor, width: int, parameters: Parameters, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw the boxes to add: float64 (A, 4) in image pixels, and the page of each, Long (A,).

    An operation of strength s fills s of its places on average.

    Args:
        heights: Long (B,), rows of each page.
        width: of the image, pixels.
        parameters: of at least one operation of this kind.
        keys: Long (B,), one key a page.
    """
    page = torch.stack([torch.full_like(heights, width), heights], 1).double().view(-1, 1, 2)
    added = []
    for op, shape, params in applied_ops(Kind.ADDED_BOXES, parameters):
        places = int(op.maximum)
        place = torch.arange(places, device=keys.device)
        draws = torch.arange(places * _UNIFORMS, device=keys.device) + (op.place_in_kind << 32)
        u = uniform(keys.unsqueeze(1), draws).double().unflatten(1, (places, _UNIFORMS))
        is_filled = u[:, :, -1] < params.strength.unsqueeze(1) - place
        added.append((shape(u, page) * is_filled[:, :, None, None]).flatten(1, 2))
    edges = torch.cat(added, 1)
    owner = torch.arange(len(keys), device=keys.device).unsqueeze(1).expand(edges.shape[:2])
    return edges.flatten(0, 1), owner.flatten()


def lines(u: Tensor, page: Tensor) -> Tensor:
    """Draw thin boxes across or down the page: (B, places, 1, 4)."""
    length = page * (0.2 + 0.8 * u[:, :, :1])
    thickness = page[:, :, :1] * (0.008 + 0.016 * u[:, :, 1:2])
    is_across = torch.stack([u[:, :, 2] < 0.5, u[:, :, 2] >= 0.5], 2)
    return _position(torch.where(is_across, length, thickness), u, page).unsqueeze(2)


def boxes(u: Tensor, page: Tensor) -> Tensor:
    """Draw boxes with sides of up to half the page's width: (B, places, 1, 4)."""
    return _position(page[:, :, :1] * (0.05 + 0.45 * u[:, :, :2]), u, page).unsqueeze(2)


def text(u: Tensor, page: Tensor) -> Tensor:
    """Draw a box with two to six rows in it, the last one shorter: (B, places, 7, 4)."""
    width = page[:, :, 0] * (0.2 + 0.6 * u[:, :, 0])
    pitch = page[:, :, 0] * (0.02 + 0.03 * u[:, :, 1])
    rows = 2 + (u[:, :, 2] * (_TEXT_ROWS - 1)).floor()
    block = _position(torch.stack([width, pitch * (rows + 0.5)], 2), u, page)

    row = torch.arange(_TEXT_ROWS, device=u.device)
    pitch, rows = pitch.unsqueeze(2), rows.unsqueeze(2)
    left, top = (block[:, :, side].unsqueeze(2) + 0.5 * pitch for side in (0, 1))
    length = torch.where(row == rows - 1, 0.3 + 0.6 * u[:, :, 5:6], 1.0)
    upper = top + row * pitch
    right = left + length * (width.unsqueeze(2) - pitch)
    text_rows = torch.stack([left.expand_as(upper), upper, right, upper + 0.55 * pitch], 3)
    return torch.cat([block.unsqueeze(2), text_rows * (row < rows).unsqueeze(3)], 2)


def _position(size: Tensor, u: Tensor, page: Tensor) -> Tensor:
    """Place boxes of a size (B, places, 2), cut to the page's, anywhere on it: (B, places, 4)."""
    size = size.minimum(page)
    corner = u[:, :, 3:5] * (page - size)
    return torch.cat([corner, corner + size], 2)
