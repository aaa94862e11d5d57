"""What a search goes by: vectors whose Euclidean distance says how unlike two pages are.

A VAE's latent keeps what a page's pixels are made of, and large areas weigh most in it, as they do
in pixels. Where boxes begin and end weighs little there, but makes pages look alike to people. The
encoder's first map sees it. So a vector has two parts: `mu`, and the map's mean and standard
deviation in cells that hang from the top of the page. Each is told by its direction from the mean
of the pages that are searched, so that distances are those of cosines.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.model.blocks import fit_rows

CELLS = 4  # across a page's width; they are square
LATENT_SHARE = 0.5  # of `mu` in squared distances, beside 1 of the structure
LEAST_DEVIATION = 0.1  # of the mean deviation: what hardly varies must not drown the rest


def structure(features: Tensor, rows: int) -> Tensor:
    """Mean and standard deviation of maps in each cell: float32 (B, S), see `structure_size`.

    Args:
        features: (B, C, H, W), zero below the pages.
        rows: of the tallest page in such a map; what H is does not matter.
    """
    cell = features.shape[3] // CELLS
    x = fit_rows(features, -(-rows // cell) * cell).float()
    mean = F.avg_pool2d(x, cell)
    # Two passes: a mean of squares less a squared mean would drown a small deviation in rounding.
    centred = x - mean.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)
    return torch.cat([mean, F.avg_pool2d(centred.square(), cell).sqrt()], 1).flatten(1)


def structure_size(channels: int, rows: int, width: int) -> int:
    """S of maps (B, channels, H, width) whose tallest page has so many rows."""
    return 2 * channels * CELLS * -(-rows // (width // CELLS))


class Similarity:
    """The space of a search among some pages, or of comparisons within them."""

    def __init__(self, mu: Tensor, logvar: Tensor, structure: Tensor) -> None:
        """Measure the pages that are searched: `mu` and `logvar` (N, D), `structure` (N, S).

        A dimension of `mu` counts in units of the root of its mean posterior standard deviation:
        raw, details would count as much as the page's shape. One of the structure counts in its
        standard deviations over the pages.
        """
        self.unit = (logvar.double() / 2).exp().mean(dim=0).sqrt()
        self.centre = mu.double().mean(dim=0)
        self.structure_centre = structure.double().mean(dim=0)
        deviation = structure.double().std(dim=0, correction=0)
        least = (LEAST_DEVIATION * deviation.mean()).clamp(min=torch.finfo(torch.float32).tiny)
        self.structure_unit = deviation.maximum(least)

    def vectors(self, mu: Tensor, structure: Tensor) -> Tensor:
        """The vectors of pages, of those searched or of others: float64 (M, D + S)."""
        latent = F.normalize((mu.double() - self.centre) / self.unit, dim=1)
        seen = F.normalize(
            (structure.double() - self.structure_centre) / self.structure_unit, dim=1
        )
        return torch.cat([LATENT_SHARE**0.5 * latent, seen], 1)
