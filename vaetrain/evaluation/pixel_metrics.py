"""How faithful reconstructions are: one value per page, pixels below the page's rows never counted.

Every metric takes `(reconstruction, page, heights)`: two images (B, 1, H, W) in [0, 1] and Long
(B,) valid rows, and returns (B,), as the losses do. L1, MSE, SSIM and MS-SSIM are the losses
themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shards.format.layout import MAX_DEPTH
from vaetrain.losses import pixel, ssim

PSNR_MOST = 100.0  # dB; a page without any error would be infinitely good
# Of the step that one box makes: not exactly half, or rounding would decide about the many borders
# that lie half-way between two pixels.
EDGE = 0.45 / MAX_DEPTH


def pixel_metrics(reconstruction: Tensor, page: Tensor, heights: Tensor) -> dict[str, Tensor]:
    """All metrics of this file and their relatives among the losses, (B,) each, by name."""
    clipped = reconstruction.clamp(0, 1)
    squares = pixel.mse(clipped, page, heights)
    return {
        "l1": pixel.l1(clipped, page, heights),
        "mse": squares,
        "psnr": psnr(squares),
        "ssim": ssim.ssim(clipped, page, heights),
        "ms_ssim": ssim.ms_ssim(clipped, page, heights),
        "edge_f1": edge_f1(clipped, page, heights),
        "gradient_energy": gradient_energy(clipped, heights),
        "page_gradient_energy": gradient_energy(page, heights),
    }


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error, peak 1, at most 100."""
    return -10 * mse.clamp(min=10 ** (-PSNR_MOST / 10)).log10()


def gradient_energy(images: Tensor, heights: Tensor) -> Tensor:
    """Sum of squared differences between neighbouring pixels, across and down, per pixel: (B,).

    The Dirichlet energy of the picture. Of reconstructions over that of the pages it is 1 where
    they are as sharp, below where they are blurred.
    """
    across = images.diff(dim=3).square().sum(dim=(1, 3))
    down = images.diff(dim=2).square().sum(dim=(1, 3))
    row = torch.arange(images.shape[2], device=heights.device)
    total = across.masked_fill(row >= heights[:, None], 0).sum(dim=1)
    total = total + down.masked_fill(row[1:] >= heights[:, None], 0).sum(dim=1)
    return total / (heights * images.shape[3])


def edge_f1(reconstruction: Tensor, page: Tensor, heights: Tensor) -> Tensor:
    """F1 of the reconstruction's edge pixels against those of the page's boxes: (B,) in [0, 1].

    An edge is where the central difference, across or down, is over 0.45 of the step that one box
    makes: the two or three pixels around every visible border of the layout. A border that is off
    by a pixel counts half, by two not at all; F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979,
    chapter 7), 1 where neither has an edge.
    """
    ours, theirs = edges(reconstruction, heights), edges(page, heights)
    hits = (ours & theirs).sum(dim=(1, 2, 3))
    found = ours.sum(dim=(1, 2, 3)) + theirs.sum(dim=(1, 2, 3))
    return torch.where(found > 0, 2 * hits / found.clamp(min=1), 1.0)


def edges(images: Tensor, heights: Tensor) -> Tensor:
    """Where images (B, 1, H, W) have an edge: bool, false on and below each page's last row.

    Neighbours beyond the page are not asked, so its outermost pixels know one direction only.
    """
    found = torch.zeros_like(images, dtype=torch.bool)
    found[..., 1:-1] = (images[..., 2:] - images[..., :-2]).abs() > EDGE
    row = torch.arange(images.shape[2], device=heights.device)
    found &= (row < heights[:, None])[:, None, :, None]
    upright = (images[:, :, 2:] - images[:, :, :-2]).abs() > EDGE
    inside = (row[1:-1] < heights[:, None] - 1)[:, None, :, None]
    found[:, :, 1:-1] |= upright & inside
    return found
