"""SSIM and MS-SSIM of pages of different heights."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.losses.pixel import _page_mean
from vaetrain.model.precision import full_precision

WINDOW = 11  # pixels of SSIM's Gaussian window


SIGMA = 1.5


SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # of a data range of 1


MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


MS_SSIM_FLOOR = 1e-3  # below it a level's power is continued by a line, whose slope is finite


@full_precision
def ssim(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over windows: (B,), 1 for equal pages.

    An 11-pixel Gaussian window of sigma 1.5, no border padding, data range 1; only windows wholly
    on the page count. A page with fewer than 11 rows has no window and scores a constant 1, so that
    a loss of `1 - ssim` ignores it; leave it out of metrics. Images must be 11 pixels wide.
    """
    similarity, _ = _structure(prediction, target, heights)
    return similarity


@full_precision
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
