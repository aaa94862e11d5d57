"""Losses as pure functions: one value per page, pixels below the page's rows never counted.

Every loss takes `(prediction, target, heights)`: two images (B, 1, H, W) and Long (B,) valid rows,
and returns (B,). All are computed in float32 at least, inside autocast too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

WINDOW = 11  # pixels of SSIM's Gaussian window
SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # of a data range of 1
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_FLOOR = 1e-3  # below it a level's power is continued by a line, whose slope is finite
CHARBONNIER_EPS = 1e-3


def _full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run with autocast off and half-precision tensors as float32; traces show it by its name."""

    @functools.wraps(loss)
    def in_float32(*tensors: Tensor) -> Tensor:
        autocast = torch.autocast(tensors[0].device.type, enabled=False)
        with record_function(f"loss: {loss.__name__}"), autocast:
            wide = [t.float() if t.is_floating_point() and t.itemsize < 4 else t for t in tensors]
            return loss(*wide)

    return in_float32


@_full_precision
def l1(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean absolute error over the page's pixels: (B,)."""
    return _page_mean((prediction - target).abs(), heights)


@_full_precision
def mse(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean squared error over the page's pixels: (B,)."""
    return _page_mean((prediction - target).square(), heights)


@_full_precision
def charbonnier(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + eps^2) over the page's pixels (Charbonnier et al. 1994), eps 0.001: (B,).

    L1 with a gradient that vanishes smoothly at 0; a perfect page scores eps.
    """
    return _page_mean(((prediction - target).square() + CHARBONNIER_EPS**2).sqrt(), heights)


@_full_precision
def bce_with_logits(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Mean binary cross-entropy in nats over the page's pixels: (B,).

    `prediction` holds logits, `target` values in [0, 1].
    """
    return _page_mean(
        F.binary_cross_entropy_with_logits(prediction, target, reduction="none"), heights
    )


@_full_precision
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


@_full_precision
def ssim(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over windows: (B,), 1 for equal pages.

    An 11-pixel Gaussian window of sigma 1.5, no border padding, data range 1; only windows wholly
    on the page count. A page with fewer than 11 rows has no window and scores a constant 1, so that
    a loss of `1 - ssim` ignores it; leave it out of metrics. Images must be 11 pixels wide.
    """
    similarity, _ = _structure(prediction, target, heights)
    return similarity


@_full_precision
def ms_ssim(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Multi-scale SSIM (Wang et al. 2003): (B,) in [0, 1], 1 for equal pages.

    Levels go on halving as long as the page's shorter side holds a window, five at most; with
    fewer, their weights are scaled to sum 1. Five levels (sides over 160) are those of
    pytorch-msssim, down to its alignment of odd sides. A level at or below 0 makes the value 0, as
    there; gradients stay finite, and are 0 then. Pages under 11 rows score a constant 1.
    """
    contrasts, similarities, fits = [], [], []
    levels = _levels(prediction.shape[3])
    for level in range(levels):
        if level:
            prediction, _ = _halve(prediction, heights)
            target, heights = _halve(target, heights)
        similarity, contrast = _structure(prediction, target, heights)
        contrasts.append(contrast)
        similarities.append(similarity)
        fits.append(heights >= WINDOW)
    used = torch.stack(fits).to(similarity.dtype)
    last = used * (1 - F.pad(used[1:], (0, 0, 0, 1)))  # the one level that also counts luminance
    values = torch.where(last > 0, torch.stack(similarities), torch.stack(contrasts))
    # Not one tensor of the weights: it would be copied from the host at every step.
    weights = torch.stack([w * row for w, row in zip(MS_SSIM_WEIGHTS, used, strict=False)])
    weights = weights / weights.sum(dim=0).clamp(min=MS_SSIM_WEIGHTS[0])
    powers = values.clamp(min=MS_SSIM_FLOOR).pow(weights) * (values / MS_SSIM_FLOOR).clamp(0, 1)
    return torch.where(used > 0, powers, 1).prod(dim=0)


@_full_precision
def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each latent dimension, in nats; shape of `mu`.

    The formula of Kingma & Welling 2014, appendix B, with expm1 for variances near 1.
    """
    return 0.5 * (mu.square() + logvar.expm1() - logvar)


def _page_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of (B, 1, H, W) over each page's first `rows` rows; 0 for none."""
    sums = values.sum(dim=(1, 3))
    below = torch.arange(values.shape[2], device=rows.device) >= rows[:, None]
    return sums.masked_fill(below, 0).sum(dim=1) / (rows * values.shape[3]).clamp(min=1)


def _structure(x: Tensor, y: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term over the windows on the page, (B,) each."""
    if x.shape[2] < WINDOW:
        ones = x.new_ones(len(x))
        return ones, ones
    maps = torch.cat([x, y, x * x + y * y, x * y], dim=1)
    mean_x, mean_y, power, product = _Blur.apply(_Blur.apply(maps, 2), 3).split(1, dim=1)
    mean_product, mean_power = mean_x * mean_y, mean_x.square() + mean_y.square()
    contrast = 2 * (product - mean_product) + SSIM_C2
    contrast = contrast / (power - mean_power + SSIM_C2)
    similarity = (2 * mean_product + SSIM_C1) / (mean_power + SSIM_C1) * contrast
    windows = heights - (WINDOW - 1)
    none = windows < 1
    return (
        _page_mean(similarity, windows).masked_fill(none, 1),
        _page_mean(contrast, windows).masked_fill(none, 1),
    )


class _Blur(torch.autograd.Function):
    """The Gaussian window along one dimension, without padding: length n to n - 10.

    Shifted sums, not a convolution: SSIM subtracts nearly equal second moments, which cuDNN's
    TF32 would ruin, and on a CPU a convolution of one channel takes five times as long. The
    window is symmetric, so the gradient is the same blur of the padded gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        length = x.shape[dim] - (WINDOW - 1)
        taps = _gaussian()
        blurred = x.narrow(dim, 0, length) * taps[0]
        for offset in range(1, WINDOW):
            blurred.add_(x.narrow(dim, offset, length), alpha=taps[offset])
        return blurred

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        border = [0] * (2 * (grad.dim() - ctx.dim))
        border[-2:] = [WINDOW - 1, WINDOW - 1]
        return _Blur.apply(F.pad(grad, border), ctx.dim), None


def _gaussian() -> list[float]:
    """The window's weights, summing to 1."""
    centre = WINDOW // 2
    weights = [math.exp(-((i - centre) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    return [weight / sum(weights) for weight in weights]


def _levels(width: int) -> int:
    """MS-SSIM levels at which a row of pixels still holds a window, at least one."""
    levels = 1
    while levels < len(MS_SSIM_WEIGHTS) and -(-width // 2**levels) >= WINDOW:
        levels += 1
    return levels


def _halve(images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """2 x 2 means, and the halved heights, rounded up.

    An odd side is padded with a zero before its first pixel, as pytorch-msssim does. Whether a
    page's height is odd is its own affair, so its rows may move down by one here.
    """
    page = torch.arange(images.shape[2], device=heights.device) < heights[:, None]
    images = images.masked_fill(~page[:, None, :, None], 0)
    height, width = images.shape[2:]
    images = F.pad(images, (width % 2, 0, 0, 1 + (height + 1) % 2))
    moved = F.pad(images, (0, 0, 1, -1))
    odd = (heights % 2 == 1)[:, None, None, None]
    return F.avg_pool2d(torch.where(odd, moved, images), 2), (heights + 1) // 2
