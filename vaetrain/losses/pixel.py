"""Pixel losses: one value per page, a mean over the page's pixels.

Every loss takes `(prediction, target, heights)` and returns (B,). `prediction` and `target` are
images (B, 1, H, W); `heights`, Long (B,), is the number of valid rows of each page. Padding below
these rows is ignored. Losses are computed in float32 or higher precision, also inside autocast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from shards.format.layout import MAX_DEPTH
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

    The Charbonnier loss (Charbonnier et al. 1994) is close to L1, but its gradient goes smoothly to
    0 at d = 0. For a perfect reconstruction, the loss is eps.
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


@full_precision
def levels_nll(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute the mean negative log likelihood in nats of the page's nesting depths: (B,).

    A pixel between two levels (antialiasing) counts as both, each with its share. This is the
    expected value for a page whose pixels are rounded at random to one of their two levels. Depths
    over K - 1 count as K - 1.

    Args:
        prediction: logits of the levels 0 to K - 1, (B, K, H, W).
        target: pages (B, 1, H, W), values are depth / 40.
    """
    last = prediction.shape[1] - 1
    depth = (MAX_DEPTH * target).clamp(0, last)
    lower = depth.floor().clamp(max=last - 1)
    share = depth - lower  # of the upper level
    index = torch.cat([lower, lower + 1], dim=1).long()
    both = prediction.log_softmax(dim=1).gather(1, index)
    likelihood = (both * torch.cat([1 - share, share], dim=1)).sum(dim=1, keepdim=True)
    return masked_mean(-likelihood, heights)
