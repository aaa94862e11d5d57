"""Pixel losses: one value per page, a mean over the page's pixels.

Every loss takes `(prediction, target, heights)`, images (B, 1, H, W) and Long (B,) valid rows, and
returns (B,). Padding below a page's rows is ignored. Losses are computed in float32 at least,
inside autocast as well.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vaetrain.losses.page_means import masked_mean
from vaetrain.model.full_precision import full_precision

CHARBONNIER_EPS = 1e-3


@full_precision
def l1(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute the mean absolute error over the page's pixels: (B,)."""
    return masked_mean((prediction - target).abs(), heights)


@full_precision
def mse(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute the mean squared error over the page's pixels: (B,)."""
    return masked_mean((prediction - target).square(), heights)


@full_precision
def charbonnier(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute the mean of sqrt(d^2 + eps^2) over the page's pixels, eps = 0.001: (B,).

    The Charbonnier loss (Charbonnier et al. 1994) is L1 with a gradient that vanishes smoothly at
    0. A perfect reconstruction scores eps.
    """
    return masked_mean(((prediction - target).square() + CHARBONNIER_EPS**2).sqrt(), heights)


@full_precision
def bce_with_logits(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute the mean binary cross-entropy in nats over the page's pixels: (B,).

    `prediction` holds logits, `target` values in [0, 1].
    """
    return masked_mean(
        F.binary_cross_entropy_with_logits(prediction, target, reduction="none"), heights
    )
