"""Registry of per-page metrics of reconstructions.

A metric is a function of `(reconstruction, page, heights)`: two images (B, 1, H, W) in [0, 1] and
Long (B,), the rows of each page. It returns (B,) and ignores the padding below the rows, as the
losses do. Registered with `pixel_metric`, it is measured in every validation and evaluation and for
every baseline, and logged under its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shards.format.layout import MAX_DEPTH
from vaetrain.losses import pixel, ssim

PageMetric = Callable[[Tensor, Tensor, Tensor], Tensor]

GRADIENT_ENERGIES = ("gradient_energy", "page_gradient_energy")
MAX_PSNR = 100.0  # dB; the PSNR of a page without error would be infinite
# Threshold of an edge, relative to the grey step of one box. Not 0.5: a border half-way between two
# pixels makes steps of exactly half, and rounding would decide.
EDGE = 0.45 / MAX_DEPTH


@dataclass(frozen=True)
class PixelMetric:
    """A registered metric.

    Attributes:
        function: see the module.
        min_rows: pages with fewer rows are excluded from the mean over pages.
    """

    function: PageMetric
    min_rows: int


PIXEL_METRICS: dict[str, PixelMetric] = {}


def pixel_metric(name: str, *, min_rows: int = 1) -> Callable[[PageMetric], PageMetric]:
    """Return a decorator that registers a metric under the name that it is logged by."""

    def register(function: PageMetric) -> PageMetric:
        PIXEL_METRICS[name] = PixelMetric(function, min_rows)
        return function

    return register


def pixel_metrics(reconstruction: Tensor, page: Tensor, heights: Tensor) -> dict[str, Tensor]:
    """Compute all registered metrics and both gradient energies: (B,) each, by name.

    The reconstruction is clipped to [0, 1] first.
    """
    clipped = reconstruction.clamp(0, 1)
    values = {
        name: metric.function(clipped, page, heights) for name, metric in PIXEL_METRICS.items()
    }
    energies = gradient_energy(clipped, heights), gradient_energy(page, heights)
    return values | dict(zip(GRADIENT_ENERGIES, energies, strict=True))


def gradient_energy(images: Tensor, heights: Tensor) -> Tensor:
    """Compute the Dirichlet energy per pixel: (B,).

    It is the sum of squared differences between horizontal and vertical neighbours. Energy of the
    reconstructions divided by energy of the pages is 1 for equal sharpness, less for blur.
    """
    across = images.diff(dim=3).square().sum(dim=(1, 3))
    down = images.diff(dim=2).square().sum(dim=(1, 3))
    row = torch.arange(images.shape[2], device=heights.device)
    total = across.masked_fill(row >= heights[:, None], 0).sum(dim=1)
    total = total + down.masked_fill(row[1:] >= heights[:, None], 0).sum(dim=1)
    return total / (heights * images.shape[3])


pixel_metric("l1")(pixel.l1)
pixel_metric("mse")(pixel.mse)


@pixel_metric("psnr")
def psnr(reconstruction: Tensor, page: Tensor, heights: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio in dB, peak 1, at most 100: (B,)."""
    mse = pixel.mse(reconstruction, page, heights)
    return -10 * mse.clamp(min=10 ** (-MAX_PSNR / 10)).log10()


pixel_metric("ssim", min_rows=ssim.WINDOW)(ssim.ssim)
pixel_metric("ms_ssim", min_rows=ssim.WINDOW)(ssim.ms_ssim)


@pixel_metric("edge_f1")
def edge_f1(reconstruction: Tensor, page: Tensor, heights: Tensor) -> Tensor:
    """Compute the F1 score of the reconstruction's edge pixels: (B,) in [0, 1].

    An edge pixel has a central difference, horizontal or vertical, over 0.45 of the grey step of
    one box: these are the two or three pixels around every visible border of the layout. A border
    shifted by one pixel counts half, by two pixels not at all. F1 = 2 TP / (2 TP + FP + FN) (van
    Rijsbergen 1979, chapter 7), and 1 if neither image has an edge.
    """
    predicted, expected = edges(reconstruction, heights), edges(page, heights)
    hits = (predicted & expected).sum(dim=(1, 2, 3))
    total = predicted.sum(dim=(1, 2, 3)) + expected.sum(dim=(1, 2, 3))
    return torch.where(total > 0, 2 * hits / total.clamp(min=1), 1.0)


def edges(images: Tensor, heights: Tensor) -> Tensor:
    """Return the edge pixels of images (B, 1, H, W): bool, False in the padding.

    Neighbours outside the page do not count, so the outermost pixels have one direction only.
    """
    is_edge = torch.zeros_like(images, dtype=torch.bool)
    is_edge[..., 1:-1] = (images[..., 2:] - images[..., :-2]).abs() > EDGE
    row = torch.arange(images.shape[2], device=heights.device)
    is_edge &= (row < heights[:, None])[:, None, :, None]
    vertical = (images[:, :, 2:] - images[:, :, :-2]).abs() > EDGE
    inside = (row[1:-1] < heights[:, None] - 1)[:, None, :, None]
    is_edge[:, :, 1:-1] |= vertical & inside
    return is_edge
