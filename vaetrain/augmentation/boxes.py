"""Edits of boxes in image pixels: exact, before anything is drawn.

A box that is left out keeps its place with no area: numbers of boxes must not depend on draws.
"""

import torch
from torch import Tensor

from shards.randomness import uniform
from vaetrain.augmentation.strengths import Drawn

_DRAWS = 5  # per box: whether it is left out, and its four edges


def clip_to_page(boxes: Tensor, owner: Tensor, heights: Tensor, width: int) -> Tensor:
    """Boxes (T, 4) without what lies outside the pages, which no edit may bring in."""
    x = boxes[:, 0::2].clamp(0, width)
    y = boxes[:, 1::2].clamp_min(0).minimum(heights[owner].unsqueeze(1))
    return torch.stack([x, y], 2).flatten(1)


def disturb(
    boxes: Tensor, owner: Tensor, width: int, drawn: dict[str, Drawn], keys: Tensor
) -> Tensor:
    """Boxes left out and edges moved, all but each page's first box, which is the page itself.

    Args:
        boxes: (T, 4) in image pixels.
        owner: Long (T,), ascending.
        width: of the image, pixels.
        drawn: `dropout` and `jitter` are used.
        keys: Long (B,), one key a page.
    """
    first = torch.searchsorted(owner, torch.arange(len(keys), device=owner.device))
    number = torch.arange(len(owner), device=owner.device) - first[owner]
    is_page = number == 0
    draws = torch.arange(_DRAWS, device=owner.device)
    u = uniform(keys[owner].unsqueeze(1), number.unsqueeze(1) * _DRAWS + draws)
    if "jitter" in drawn:
        reach = drawn["jitter"].strength[owner].unsqueeze(1) * width
        # A quarter of its side at most: an edge never passes the other.
        reach = reach.minimum((boxes[:, 2:] - boxes[:, :2]) / 4).repeat(1, 2)
        moved = boxes + (2 * u[:, 1:] - 1) * reach
        boxes = torch.where(is_page.unsqueeze(1), boxes, moved)
    if "dropout" in drawn:
        stays = (u[:, 0] >= drawn["dropout"].strength[owner]) | is_page
        boxes = boxes * stays.unsqueeze(1)
    return boxes


def transform(boxes: Tensor, owner: Tensor, matrices: Tensor) -> Tensor:
    """Boxes (T, 4) under the axis-aligned part of homographies, float64 (B, 3, 3), of each page."""
    matrix = matrices[owner]
    corners = boxes.unflatten(1, (2, 2)) * matrix.diagonal(dim1=1, dim2=2)[:, None, :2]
    corners = corners + matrix[:, None, :2, 2]
    # A mirrored box has its edges the other way round.
    return torch.cat([corners.amin(1), corners.amax(1)], 1)
