"""Gradient difference loss."""

from __future__ import annotations

from torch import Tensor

from vaetrain.losses.page_means import masked_mean
from vaetrain.model.full_precision import full_precision


@full_precision
def gradient_difference(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute the L1 between the images' finite differences, along x plus along y: (B,).

    Each direction is a mean over the pairs of neighbours on the page; a page of one row has no
    vertical pair and scores 0 in that direction. Differences are signed, unlike in the GDL of
    Mathieu et al. 2016, so an edge of the wrong sign is penalised.

    Args:
        prediction, target: (B, 1, H, W).
        heights: Long (B,), valid rows.
    """
    difference = prediction - target
    along_x = difference.diff(dim=3).abs()
    along_y = difference.diff(dim=2).abs()
    return masked_mean(along_x, heights) + masked_mean(along_y, heights - 1)
