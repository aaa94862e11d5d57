"""The linear path from page to `mu` and from `z` to page, which the convolutions add to.

A linear map of a coarse page explains much of it. For a vector latent the path is anchored at the
top of the page, where pages of any height have their headers, and may start at the principal
components of the training pages; a spatial latent has its own patch of the page at each place.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.blocks import EqualLinear, fit_rows, zero_
from vaetrain.model.masked import Rows, keep
from vaetrain.model.sizes import STRIDES

COARSE_WIDTH = 64  # cells that the linear path sees of a page's width, up to twice as many


def coarse_cell(width: int) -> int:
    """Image pixels per cell of the coarse page: a power of two, at most the model's stride."""
    return min(STRIDES[-1], 2 ** max(0, int(math.log2(width / COARSE_WIDTH))))


class VectorPath(nn.Module):
    """Between coarse pages and vectors.

    Attributes:
        cell: image pixels per cell.
        size: cells (rows, columns) of the tallest page.
    """

    def __init__(self, latent_dim: int, width: int, rows: int) -> None:
        """Build the path for images `width` wide; it reaches down `rows` rows."""
        super().__init__()
        self.cell = coarse_cell(width)
        self.size = (rows // self.cell, width // self.cell)
        self.to_mu = EqualLinear(math.prod(self.size), latent_dim)
        # Zero: a start that is not at components is a blank page, nearer to any than noise is.
        self.to_page = zero_(EqualLinear(latent_dim, math.prod(self.size)))

    def coarse(self, images: Tensor) -> Tensor:
        """What the path sees of images (B, 1, H, W): (B, cells)."""
        return fit_rows(F.avg_pool2d(images, self.cell), self.size[0]).flatten(1)

    def mu(self, images: Tensor, rows: Rows) -> Tensor:
        """(B, D)."""
        return self.to_mu(self.coarse(images))

    def page(self, z: Tensor, height: int) -> Tensor:
        """The coarse pages (B, 1, height / cell, W / cell) of latents (B, D)."""
        return fit_rows(self.to_page(z).view(-1, 1, *self.size), height // self.cell)

    @torch.no_grad()
    def start_from_pca(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """Start at principal components: `mu` in units of the data's standard deviations.

        Args:
            mean: (cells,), of the training pages.
            components: (K, cells), orthonormal, K at most D; the other dimensions start at 0.
            deviations: (K,), standard deviation along each, not 0.
        """
        for parameter in self.parameters():
            parameter.zero_()
        count = len(components)
        self.to_mu.weight[:count] = components / deviations[:, None] / self.to_mu.scale
        self.to_mu.bias[:count] = -(components @ mean) / deviations / self.to_mu.scale
        self.to_page.weight[:, :count] = (components * deviations[:, None]).T / self.to_page.scale
        self.to_page.bias.copy_(mean / self.to_page.scale)


class PatchPath(nn.Module):
    """Between coarse patches of `stride` x `stride` pixels and the vectors at their places.

    Starts with each other's transpose and orthonormal: with as many dimensions as cells in a patch
    it passes the coarse page on.
    """

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.cell = coarse_cell(width)
        self.cells = STRIDES[-1] // self.cell
        self.to_mu = nn.Conv2d(self.cells**2, latent_dim, 1)
        self.to_page = nn.Conv2d(latent_dim, self.cells**2, 1)
        nn.init.orthogonal_(self.to_mu.weight)
        with torch.no_grad():
            self.to_page.weight.copy_(self.to_mu.weight.transpose(0, 1))

    def mu(self, images: Tensor, rows: Rows) -> Tensor:
        """Images (B, 1, H, W) to (B, D, H / 16, W / 16), zero below the pages."""
        coarse = F.avg_pool2d(images, self.cell)
        return keep(self.to_mu(F.pixel_unshuffle(coarse, self.cells)), rows)

    def page(self, z: Tensor, height: int) -> Tensor:
        """The coarse pages (B, 1, H / cell, W / cell) of latents (B, D, H / 16, W / 16)."""
        return F.pixel_shuffle(self.to_page(z), self.cells)
