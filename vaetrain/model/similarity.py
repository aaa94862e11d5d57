"""Vectors of pages whose Euclidean distance measures dissimilarity, for search and comparison.

A VAE's latent describes a page's pixels, and large areas dominate it. The positions of box edges
contribute little to pixels, but people judge similarity by them, and the encoder's first map shows
them. So a page's vector has two parts: `mu`, and the mean and standard deviation of the first map
(the structure) in cells anchored at the top of the page. Each part is centred on the mean of the
searched pages and scaled to a fixed length, so that distances are those of cosines.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.model.layers import fit_rows

CELLS = 4  # per row of a page; cells are square
LATENT_SHARE = 0.5  # weight of `mu` in squared distances; the structure has weight 1
# Floor of a deviation, relative to the mean deviation: dimensions that hardly vary would dominate
# the others.
MIN_RELATIVE_DEVIATION = 0.1


def structure(features: Tensor, rows: int) -> Tensor:
    """Return mean and standard deviation of maps in each cell: float32 (B, S).

    S is given by `structure_size`.

    Args:
        features: (B, C, H, W), 0 below the pages.
        rows: of the tallest page in such a map, whatever H is.
    """
    cell = features.shape[3] // CELLS
    x = fit_rows(features, -(-rows // cell) * cell).float()
    mean = F.avg_pool2d(x, cell)
    # Two passes: the mean of squares minus the squared mean loses small deviations to rounding.
    centred = x - mean.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)
    return torch.cat([mean, F.avg_pool2d(centred.square(), cell).sqrt()], 1).flatten(1)


def structure_size(channels: int, rows: int, width: int) -> int:
    """Return S for maps (B, channels, H, width) in which the tallest page has `rows` rows."""
    return 2 * channels * CELLS * -(-rows // (width // CELLS))


class Similarity:
    """Vector space of a set of pages that are searched or compared."""

    def __init__(self, mu: Tensor, logvar: Tensor, structure: Tensor) -> None:
        """Compute centres and units from the searched pages.

        The unit of a dimension of `mu` is the square root of its mean posterior standard deviation:
        in raw `mu` details would count as much as the page's shape. The unit of a dimension of the
        structure is its standard deviation over the pages.

        Args:
            mu, logvar: (N, D).
            structure: (N, S).
        """
        self.unit = (logvar.double() / 2).exp().mean(dim=0).sqrt()
        self.centre = mu.double().mean(dim=0)
        self.structure_centre = structure.double().mean(dim=0)
        deviation = structure.double().std(dim=0, correction=0)
        floor = (MIN_RELATIVE_DEVIATION * deviation.mean()).clamp(
            min=torch.finfo(torch.float32).tiny
        )
        self.structure_unit = deviation.maximum(floor)

    def vectors(self, mu: Tensor, structure: Tensor) -> Tensor:
        """Return the vectors of any M pages: float64 (M, D + S)."""
        latent = F.normalize((mu.double() - self.centre) / self.unit, dim=1)
        boxes = F.normalize(
            (structure.double() - self.structure_centre) / self.structure_unit, dim=1
        )
        return torch.cat([LATENT_SHARE**0.5 * latent, boxes], 1)
