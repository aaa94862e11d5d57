"""Boxes of a page as its picture shows them, and distances between their distributions.

A picture has no box tree, so boxes of real pages and of pages made by a model are found alike: a
box is a connected region of pixels at least one, two, ... levels deep. Of a drawn layout this finds
every visible box; boxes of one level that touch are one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shards.format.layout import MAX_DEPTH
from vaetrain.evaluation.page_features import averaged

WIDTH = 64  # pages are averaged to this many columns, or up to twice as many
QUANTILES = tuple(np.linspace(0.1, 0.9, 9))
STATISTICS = 2 + len(QUANTILES)  # columns of `layout_statistics`


def layout_statistics(images: Tensor, heights: Tensor) -> Tensor:
    """Count the boxes of each page and measure them: float32 (B, STATISTICS), on their device.

    Args:
        images: float (B, 1, H, W) in [0, 1].
        heights: Long (B,), rows of each page.

    Returns: the number of boxes; the depth of nesting; and the deciles 1 to 9 of the page's box
        sizes. A size is the root of the box's area, in page widths.
    """
    square = max(1, images.shape[3] // WIDTH)
    small = averaged(images, square)[:, 0].cpu().numpy() * MAX_DEPTH
    rows = (-(-heights // square)).tolist()
    statistics = [_of_page(page[:count]) for page, count in zip(small, rows, strict=True)]
    return torch.tensor(np.array(statistics), dtype=torch.float32, device=images.device)


def _of_page(depth: np.ndarray) -> list[float]:
    # A local import: training starts without it.
    from scipy import ndimage

    levels = np.arange(0.5, max(depth.max(), 0.5) + 1e-6)
    # Regions are connected within a level (sides touch), not from one level to the next.
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = ndimage.generate_binary_structure(2, 1)
    regions, count = ndimage.label(depth >= levels[:, None, None], touching)
    if count == 0:
        return [0.0] * STATISTICS
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]  # 0 is the background
    sizes = areas**0.5 / depth.shape[1]
    return [count, len(levels), *np.quantile(sizes, QUANTILES)]


@dataclass(frozen=True)
class LayoutDistances:
    """Wasserstein-1 distances between the distributions of two sets of pages.

    Attributes:
        boxes: of the boxes per page, in boxes.
        depth: of the depth of nesting, in levels.
        box_size: of box sizes, each page with equal weight, in page widths.
        height: of page heights, in page widths.
    """

    boxes: float
    depth: float
    box_size: float
    height: float

    @classmethod
    def between(
        cls, first: Tensor, second: Tensor, first_heights: Tensor, second_heights: Tensor
    ) -> LayoutDistances:
        """Compute the distances.

        Args:
            first, second: (N, STATISTICS), (M, STATISTICS), of `layout_statistics`.
            first_heights, second_heights: (N,), (M,), in page widths.
        """
        from scipy.stats import wasserstein_distance

        def distance(one: Tensor, other: Tensor) -> float:
            values = (one.flatten().double().numpy(), other.flatten().double().numpy())
            return float(wasserstein_distance(*values))

        return cls(
            boxes=distance(first[:, 0], second[:, 0]),
            depth=distance(first[:, 1], second[:, 1]),
            box_size=distance(first[:, 2:], second[:, 2:]),
            height=distance(first_heights, second_heights),
        )
