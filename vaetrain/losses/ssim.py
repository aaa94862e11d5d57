"""SSIM and MS-SSIM of pages of different heights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    if prediction.shape[2] < WINDOW:
        return prediction.new_ones(len(prediction))
    luminance, contrast = _Terms.apply(prediction, target).split(1, dim=1)
    return _mean_over_windows(luminance * contrast, heights)


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
    luminance, contrast = _Terms.apply(x, y).split(1, dim=1)
    return (
        _mean_over_windows(luminance * contrast, heights),
        _mean_over_windows(contrast, heights),
    )


def _mean_over_windows(values: Tensor, heights: Tensor) -> Tensor:
    """Return the mean of (B, 1, H - 10, W - 10) over windows on the page: (B,), 1 without any."""
    windows = heights - (WINDOW - 1)
    return masked_mean(values, windows).masked_fill(windows < 1, 1)


class _Terms(torch.autograd.Function):
    """Luminance and contrast-structure term of each window: (B, 2, H - 10, W - 10).

    Both are ratios of a product and a power: `2 mean_x mean_y + C1` and `mean_x^2 + mean_y^2 + C1`,
    `2 covariance + C2` and `variance_x + variance_y + C2`. The gradient is manual, in half of
    autograd's operations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        images, window = torch.cat([x, y], dim=1), _gaussian(x)
        maps = torch.cat([images, torch.addcmul(x * x, y, y), x * y], dim=1)
        means, power, product = _blurred(maps, window, padding=0).split([2, 1, 1], dim=1)
        mean_x, mean_y = means.split(1, dim=1)
        mean_power = torch.addcmul(mean_x * mean_x, mean_y, mean_y)
        mean_product = mean_x * mean_y
        powers = torch.cat([mean_power, power - mean_power], dim=1)
        terms = torch.cat([mean_product, product - mean_product], dim=1).mul_(2)
        for both in (powers, terms):
            both[:, 0].add_(SSIM_C1)
            both[:, 1].add_(SSIM_C2)
        terms.div_(powers)
        ctx.save_for_backward(images, means, powers, terms, window)
        return terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        images, means, powers, terms, window = ctx.saved_tensors
        # Halves of the gradients of means of products, and negative gradients of those of powers.
        grad = grad / powers
        mean_product, product = grad.split(1, dim=1)
        mean_power, power = (grad * terms).split(1, dim=1)
        of_means = means.flip(1).mul_(mean_product - product)
        of_means.addcmul_(means, power - mean_power).mul_(2)
        of_maps = torch.cat([of_means, power, product], dim=1)
        of_maps = _blurred(of_maps, window, padding=WINDOW - 1)
        of_images, power, product = of_maps.split([2, 1, 1], dim=1)
        of_images.addcmul_(images, power, value=-2).addcmul_(images.flip(1), product, value=2)
        of_x, of_y = of_images.split(1, dim=1)
        return of_x, of_y


def _blurred(x: Tensor, window: Tensor, padding: int) -> Tensor:
    """Blur (B, C, H, W), padded by zeros on all sides, with a Gaussian window.

    All maps of all pages are the channels of one depthwise convolution along each axis: on a CPU it
    takes half the time of a sum of shifted maps, and a tenth of that of a convolution of one
    channel. SSIM subtracts nearly equal second moments, so the rounding of cuDNN's TF32
    convolutions would dominate the result; depthwise convolutions of fp32 do not use cuDNN. The
    window is symmetric, so the gradient is the same blur of the padded gradient.
    """
    channels = x.shape[0] * x.shape[1]
    kernel = window.expand(channels, 1, 1, WINDOW)
    blurred = x.reshape(1, channels, *x.shape[2:])
    blurred = F.conv2d(blurred, kernel.mT, padding=(padding, 0), groups=channels)
    blurred = F.conv2d(blurred, kernel, padding=(0, padding), groups=channels)
    return blurred.view(*x.shape[:2], *blurred.shape[2:])


def _gaussian(x: Tensor) -> Tensor:
    """Return the window (11,), which sums to 1, with the dtype and on the device of `x`."""
    centre = WINDOW // 2
    # float64, because errors of the weights count as much as those of the moments.
    offsets = torch.arange(-centre, centre + 1, dtype=torch.float64, device=x.device)
    return (offsets.square() * (-0.5 / SIGMA**2)).softmax(dim=0).to(x.dtype)


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
