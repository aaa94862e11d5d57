"""Losses as pure functions: one value per page, pixels below the page's rows never counted.

Every loss takes `(prediction, target, heights)`: two images (B, 1, H, W) and Long (B,) valid rows,
and returns (B,). All are computed in float32 at least, inside autocast too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.model.precision import full_precision

CHARBONNIER_EPS = 1e-3


@full_precision
def l1(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean absolute error over the page's pixels: (B,)."""
    return _page_mean((prediction - target).abs(), heights)


@full_precision
def mse(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean squared error over the page's pixels: (B,)."""
    return _page_mean((prediction - target).square(), heights)


@full_precision
def charbonnier(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + eps^2) over the page's pixels (Charbonnier et al. 1994), eps 0.001: (B,).

    L1 with a gradient that vanishes smoothly at 0; a perfect page scores eps.
    """
    return _page_mean(((prediction - target).square() + CHARBONNIER_EPS**2).sqrt(), heights)


@full_precision
def bce_with_logits(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats over the page's pixels: (B,).

    `prediction` holds logits, `target` values in [0, 1].
    """
    return _page_mean(
        F.binary_cross_entropy_with_logits(prediction, target, reduction="none"), heights
    )


@full_precision
def edges(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """L1 between the finite differences of the images, along x plus along y: (B,).

    Each direction is a mean over the pairs of neighbours on the page; a page of one row has no
    vertical pair and scores 0 there. Signed, unlike the GDL of Mathieu et al. 2016: an edge of the
    wrong sign is not forgiven.
    """
    difference = prediction - target
    across = difference.diff(dim=3).abs()
    down = difference.diff(dim=2).abs()
    return _page_mean(across, heights) + _page_mean(down, heights - 1)


def _page_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of (B, 1, H, W) over each page's first `rows` rows; 0 for none."""
    sums = values.sum(dim=(1, 3))
    below = torch.arange(values.shape[2], device=rows.device) >= rows[:, None]
    return sums.masked_fill(below, 0).sum(dim=1) / (rows * values.shape[3]).clamp(min=1)
