"""SSIM and MS-SSIM of pages of different heights."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.losses.page_means import masked_mean
from vaetrain.model.full_precision import full_precision

WINDOW = 11  # pixels of the Gaussian window
SIGMA = 1.5  # of the window
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for a data range of 1
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Below this a level's power is continued linearly: the gradient of x^w is infinite at 0.
MS_SSIM_FLOOR = 1e-3


@full_precision
def ssim(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute SSIM (Wang et al. 2004), the mean over windows: (B,), 1 for equal pages.

    The window is Gaussian, 11 pixels wide with sigma 1.5; the data range is 1. Borders are not
    padded, and only windows that lie wholly on the page count. A page of fewer than 11 rows has no
    window and scores a constant 1, so that a loss of `1 - ssim` ignores it; exclude such pages from
    metrics. Images must be at least 11 pixels wide.

    Args:
        prediction, target: (B, 1, H, W) in [0, 1].
        heights: Long (B,), valid rows.
    """
    similarity, _ = _ssim_terms(prediction, target, heights)
    return similarity


@full_precision
def ms_ssim(prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
    """Compute multi-scale SSIM (Wang et al. 2003): (B,) in [0, 1], 1 for equal pages.

    Images are halved from level to level while the page's shorter side holds a window, for five
    levels at most; with fewer levels their weights are scaled to sum 1. With five levels (sides
    over 160 pixels) the result equals pytorch-msssim's, including its alignment of odd sides. A
    level at or below 0 makes the result 0, as in pytorch-msssim; the gradient is then finite and 0.
    Pages of fewer than 11 rows score a constant 1.

    Args: as of `ssim`.
    """
    contrasts, similarities, fits = [], [], []
    levels = _levels(prediction.shape[3])
    for level in range(levels):
        if level:
            prediction, _ = _halve(prediction, heights)
            target, heights = _halve(target, heights)
        similarity, contrast = _ssim_terms(prediction, target, heights)
        contrasts.append(contrast)
        similarities.append(similarity)
        fits.append(heights >= WINDOW)
    used = torch.stack(fits).to(similarity.dtype)
    last = used * (1 - F.pad(used[1:], (0, 0, 0, 1)))  # only the last level includes luminance
    values = torch.where(last > 0, torch.stack(similarities), torch.stack(contrasts))
    # A tensor of MS_SSIM_WEIGHTS would be copied from the host at every step.
    weights = torch.stack([w * row for w, row in zip(MS_SSIM_WEIGHTS, used, strict=False)])
    weights = weights / weights.sum(dim=0).clamp(min=MS_SSIM_WEIGHTS[0])
    powers = values.clamp(min=MS_SSIM_FLOOR).pow(weights) * (values / MS_SSIM_FLOOR).clamp(0, 1)
    return torch.where(used > 0, powers, 1).prod(dim=0)


def _ssim_terms(x: Tensor, y: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean SSIM and mean contrast-structure term over the page's windows, (B,) each."""
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
    has_no_window = windows < 1
    return (
        masked_mean(similarity, windows).masked_fill(has_no_window, 1),
        masked_mean(contrast, windows).masked_fill(has_no_window, 1),
    )


class _Blur(torch.autograd.Function):
    """Gaussian blur along one dimension without padding: length n to n - 10.

    The blur is a sum of shifted images instead of a convolution. SSIM subtracts nearly equal second
    moments, so the rounding of cuDNN's TF32 convolutions would dominate the result; on a CPU a
    convolution of one channel takes five times as long. The window is symmetric, so the gradient is
    the same blur of the padded gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        length = x.shape[dim] - (WINDOW - 1)
        weights = _gaussian()
        blurred = x.narrow(dim, 0, length) * weights[0]
        for offset in range(1, WINDOW):
            blurred.add_(x.narrow(dim, offset, length), alpha=weights[offset])
        return blurred

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        border = [0] * (2 * (grad.dim() - ctx.dim))
        border[-2:] = [WINDOW - 1, WINDOW - 1]
        return _Blur.apply(F.pad(grad, border), ctx.dim), None


def _gaussian() -> list[float]:
    """Return the window's weights, which sum to 1."""
    centre = WINDOW // 2
    weights = [math.exp(-((i - centre) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    return [weight / sum(weights) for weight in weights]


def _levels(width: int) -> int:
    """Return the number of MS-SSIM levels at which a row of pixels holds a window, at least 1."""
    levels = 1
    while levels < len(MS_SSIM_WEIGHTS) and -(-width // 2**levels) >= WINDOW:
        levels += 1
    return levels


def _halve(images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of 2 x 2 pixels and the halved heights, rounded up.

    An odd side is padded with a zero before its first pixel, as pytorch-msssim does. Heights differ
    within a batch, so only pages of odd height are moved down by one row.
    """
    on_page = torch.arange(images.shape[2], device=heights.device) < heights[:, None]
    images = images.masked_fill(~on_page[:, None, :, None], 0)
    height, width = images.shape[2:]
    images = F.pad(images, (width % 2, 0, 0, 1 + (height + 1) % 2))
    moved = F.pad(images, (0, 0, 1, -1))
    odd = (heights % 2 == 1)[:, None, None, None]
    return F.avg_pool2d(torch.where(odd, moved, images), 2), (heights + 1) // 2
