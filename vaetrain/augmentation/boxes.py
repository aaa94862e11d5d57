"""Edits of boxes in image pixels: exact, before the boxes are drawn.

A box that is left out keeps its row, without area: the number of boxes must not depend on random
draws, or the device would have to synchronise with the host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shards.randomness import uniform
from vaetrain.augmentation.operations import Kind
from vaetrain.augmentation.parameters import OpParameters, Parameters, applied_ops

_UNIFORMS = 5  # per box and stream


class PageBoxes(NamedTuple):
    """Boxes of a batch that are edited.

    Attributes:
        edges: (T, 4), left, top, right and bottom in image pixels.
        owner: Long (T,), ascending: the page of each box.
        number: Long (T,), index of each box on its page; box 0 is the page itself.
        keys: Long (B,), one key a page.
        width: of the image, pixels.
    """

    edges: Tensor
    owner: Tensor
    number: Tensor
    keys: Tensor
    width: int

    def uniforms(self, first: int, count: int, stream: int = 0) -> Tensor:
        """Draw uniform numbers for every box: float32 (T, count).

        A stream has five numbers a box. Stream 0 is shared: `dropout` uses its first number and
        `jitter` the other four. Any other operation takes its slot as its stream.
        """
        columns = torch.arange(first, first + count, device=self.owner.device) + (stream << 32)
        keys = self.keys[self.owner].unsqueeze(1)
        return uniform(keys, self.number.unsqueeze(1) * _UNIFORMS + columns)


def clip_to_page(edges: Tensor, owner: Tensor, heights: Tensor, width: int) -> Tensor:
    """Clip boxes (T, 4) to their pages, so that no edit can move outside parts into view."""
    x = edges[:, 0::2].clamp(0, width)
    y = edges[:, 1::2].clamp_min(0).minimum(heights[owner].unsqueeze(1))
    return torch.stack([x, y], 2).flatten(1)


def edit_boxes(
    edges: Tensor, owner: Tensor, width: int, parameters: Parameters, keys: Tensor
) -> Tensor:
    """Apply the box edits to all boxes but each page's first one, which is the page itself.

    Args:
        edges: (T, 4) in image pixels.
        owner: Long (T,), ascending.
        width: of the image, pixels.
        keys: Long (B,), one key a page.
    """
    first = torch.searchsorted(owner, torch.arange(len(keys), device=owner.device))
    number = torch.arange(len(owner), device=owner.device) - first[owner]
    is_page = (number == 0).unsqueeze(1)
    for _, edit, params in applied_ops(Kind.BOX_EDIT, parameters):
        edited = edit(PageBoxes(edges, owner, number, keys, width), params)
        edges = torch.where(is_page, edges, edited)
    return edges


def jitter(boxes: PageBoxes, params: OpParameters) -> Tensor:
    """Move each edge independently, by a quarter of the box's side at most: edges never cross."""
    edges = boxes.edges
    reach = params.strength[boxes.owner].unsqueeze(1) * boxes.width
    reach = reach.minimum((edges[:, 2:] - edges[:, :2]) / 4).repeat(1, 2)
    return edges + (2 * boxes.uniforms(1, 4) - 1) * reach


def dropout(boxes: PageBoxes, params: OpParameters) -> Tensor:
    """Leave out each box with the strength as its probability."""
    is_kept = boxes.uniforms(0, 1)[:, 0] >= params.strength[boxes.owner]
    return boxes.edges * is_kept.unsqueeze(1)


def transform(edges: Tensor, owner: Tensor, matrices: Tensor) -> Tensor:
    """Transform boxes (T, 4) by the axis-aligned part of each page's homography.

    Args:
        matrices: float64 (B, 3, 3).
    """
    matrix = matrices[owner]
    corners = edges.unflatten(1, (2, 2)) * matrix.diagonal(dim1=1, dim2=2)[:, None, :2]
    corners = corners + matrix[:, None, :2, 2]
    # A mirrored box has its left edge on the right.
    return torch.cat([corners.amin(1), corners.amax(1)], 1)
