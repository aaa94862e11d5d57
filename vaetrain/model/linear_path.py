"""Linear path from a page to `mu` and from `z` to a page, to which the convolutions are added.

A linear map of a coarse page explains much of the page. For a vector latent the path is anchored at
the top of the page, where pages of any height have their headers, and can be initialised with the
PCA of the training pages. For a spatial latent it maps the patch of the page at each position.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.layers import EqualLinear, fit_rows, zero_
from vaetrain.model.masked import Rows, keep
from vaetrain.model.registry import STRIDES

COARSE_WIDTH = 64  # cells per row of the coarse page: this many, up to twice as many


def coarse_cell(width: int) -> int:
    """Return the pixels per cell of the coarse page: a power of 2, at most the model's stride."""
    return min(STRIDES[-1], 2 ** max(0, int(math.log2(width / COARSE_WIDTH))))


class VectorPath(nn.Module):
    """Linear path of a vector latent.

    Attributes:
        cell: image pixels per cell.
        size: cells (rows, columns) of the tallest page.
    """

    def __init__(self, latent_dim: int, width: int, rows: int) -> None:
        """Build the path for images `width` wide; it covers the first `rows` rows of a page."""
        super().__init__()
        self.cell = coarse_cell(width)
        self.size = (rows // self.cell, width // self.cell)
        self.to_mu = EqualLinear(math.prod(self.size), latent_dim)
        # Zero: without a PCA the initial page is blank, which is closer to any page than noise.
        self.to_page = zero_(EqualLinear(latent_dim, math.prod(self.size)))

    def coarse(self, images: Tensor) -> Tensor:
        """Average images (B, 1, H, W) over the cells: (B, cells)."""
        return fit_rows(F.avg_pool2d(images, self.cell), self.size[0]).flatten(1)

    def mu(self, images: Tensor, rows: Rows) -> Tensor:
        """Map images (B, 1, H, W) to (B, D)."""
        return self.to_mu(self.coarse(images))

    def page(self, z: Tensor, height: int) -> Tensor:
        """Map latents (B, D) to coarse pages (B, 1, height / cell, W / cell)."""
        return fit_rows(self.to_page(z).view(-1, 1, *self.size), height // self.cell)

    @torch.no_grad()
    def start_from_pca(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """Initialise the path with a PCA: `mu` has variance 1 along each principal component.

        Args:
            mean: (cells,), of the training pages.
            components: (K, cells), orthonormal, K at most D; weights of other dimensions are 0.
            deviations: (K,), standard deviation along each component, above 0.
        """
        for parameter in self.parameters():
            parameter.zero_()
        count = len(components)
        self.to_mu.weight[:count] = components / deviations[:, None] / self.to_mu.scale
        self.to_mu.bias[:count] = -(components @ mean) / deviations / self.to_mu.scale
        self.to_page.weight[:, :count] = (components * deviations[:, None]).T / self.to_page.scale
        self.to_page.bias.copy_(mean / self.to_page.scale)


class PatchPath(nn.Module):
    """Linear path of a spatial latent: one vector for each patch of `stride` x `stride` pixels.

    The initial weights of the two directions are orthonormal and each other's transpose: with as
    many dimensions as cells in a patch, the path reproduces the coarse page.
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
        """Map images (B, 1, H, W) to (B, D, H / 16, W / 16), 0 below the pages."""
        coarse = F.avg_pool2d(images, self.cell)
        return keep(self.to_mu(F.pixel_unshuffle(coarse, self.cells)), rows)

    def page(self, z: Tensor, height: int) -> Tensor:
        """Map latents (B, D, H / 16, W / 16) to coarse pages (B, 1, H / cell, W / cell)."""
        return F.pixel_shuffle(self.to_page(z), self.cells)
