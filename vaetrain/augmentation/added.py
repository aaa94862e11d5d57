"""Boxes that augmentation adds to a page: lines, boxes and blocks of text-like rows.

Each has a fixed number of places on a page, filled or empty, so that the number of boxes doesn't
depend on what is drawn. An empty place holds boxes without area.
"""

import torch
from torch import Tensor

from shards.randomness import uniform
from vaetrain.augmentation.policy import ADDED
from vaetrain.augmentation.strengths import Drawn

_ROWS = 6  # of text in a block, at most
_DRAWS = 8  # per place


def add_boxes(
    heights: Tensor, width: int, drawn: dict[str, Drawn], keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Boxes to add, float64 (A, 4) in image pixels, and the sample of each, Long (A,).

    An operation of strength s fills s of its places on average.

    Args:
        heights: Long (B,), rows of each page.
        width: of the image, pixels.
        drawn: `lines`, `boxes` and `text` are used, and one of them must be there.
        keys: Long (B,), one key a page.
    """
    page = torch.stack([torch.full_like(heights, width), heights], 1).double().view(-1, 1, 2)
    added = []
    for number, name in enumerate(ADDED):
        if name in drawn:
            shape, places = _SHAPES[name]
            place = torch.arange(places, device=keys.device)
            draws = torch.arange(places * _DRAWS, device=keys.device) + (number << 32)
            u = uniform(keys.unsqueeze(1), draws).double().unflatten(1, (places, _DRAWS))
            is_filled = u[:, :, -1] < drawn[name].strength.unsqueeze(1) - place
            added.append((shape(u, page) * is_filled[:, :, None, None]).flatten(1, 2))
    boxes = torch.cat(added, 1)
    owner = torch.arange(len(keys), device=keys.device).unsqueeze(1).expand(boxes.shape[:2])
    return boxes.flatten(0, 1), owner.flatten()


def _lines(u: Tensor, page: Tensor) -> Tensor:
    """Thin boxes across or down the page: (B, places, 1, 4)."""
    length = page * (0.2 + 0.8 * u[:, :, :1])
    thickness = page[:, :, :1] * (0.008 + 0.016 * u[:, :, 1:2])
    is_across = torch.stack([u[:, :, 2] < 0.5, u[:, :, 2] >= 0.5], 2)
    return _put(torch.where(is_across, length, thickness), u, page).unsqueeze(2)


def _boxes(u: Tensor, page: Tensor) -> Tensor:
    """Boxes of up to half the page's width: (B, places, 1, 4)."""
    return _put(page[:, :, :1] * (0.05 + 0.45 * u[:, :, :2]), u, page).unsqueeze(2)


def _text(u: Tensor, page: Tensor) -> Tensor:
    """A box with two to six rows in it, the last one shorter: (B, places, 7, 4)."""
    width = page[:, :, 0] * (0.2 + 0.6 * u[:, :, 0])
    pitch = page[:, :, 0] * (0.02 + 0.03 * u[:, :, 1])
    rows = 2 + (u[:, :, 2] * (_ROWS - 1)).floor()
    block = _put(torch.stack([width, pitch * (rows + 0.5)], 2), u, page)

    row = torch.arange(_ROWS, device=u.device)
    pitch, rows = pitch.unsqueeze(2), rows.unsqueeze(2)
    left, top = (block[:, :, side].unsqueeze(2) + 0.5 * pitch for side in (0, 1))
    length = torch.where(row == rows - 1, 0.3 + 0.6 * u[:, :, 5:6], 1.0)
    upper = top + row * pitch
    right = left + length * (width.unsqueeze(2) - pitch)
    lines = torch.stack([left.expand_as(upper), upper, right, upper + 0.55 * pitch], 3)
    return torch.cat([block.unsqueeze(2), lines * (row < rows).unsqueeze(3)], 2)


def _put(size: Tensor, u: Tensor, page: Tensor) -> Tensor:
    """Boxes of this size (B, places, 2), cut to the page, anywhere on it: (B, places, 4)."""
    size = size.minimum(page)
    corner = u[:, :, 3:5] * (page - size)
    return torch.cat([corner, corner + size], 2)


_SHAPES = {"lines": (_lines, 4), "boxes": (_boxes, 4), "text": (_text, 2)}
"""What each operation draws, and how many places it has on a page."""
