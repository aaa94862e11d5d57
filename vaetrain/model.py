"""The VAE: a page of any height to a Gaussian posterior, and a latent back to a page.

Wireframes hang from the top: a header lies at the same pixel rows on a short page and on a tall
one. So beside features relative to the page's own height (pyramid pooling) the encoder keeps a
coarse grid anchored at the top, and the decoder starts from one. And since a linear map of a coarse
page explains much of it, there is a linear path from page to `mu` and from `z` to page, which may
start at the principal components of the training pages; the convolutions add to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.blocks import Stage, enlarge, fit_rows, zero_
from vaetrain.config import ModelConfig
from vaetrain.masked import PyramidPool, Rows, keep, rows_at
from vaetrain.mixup import mix_pairs

STRIDES = (2, 4, 8, 16)  # of the encoder's stages; the decoder goes the same way back
LOGVAR_BOUND = 12.0
COARSE_WIDTH = 32  # cells that the linear path sees of a page's width, up to twice as many
START_LOGVAR = -3.0  # of a start from components: noise well below their unit variance


@dataclass(frozen=True)
class Size:
    """Channels and blocks of the stages, and channels of the coarse grids."""

    channels: tuple[int, int, int, int]
    blocks: int
    grid: int


SIZES = {
    "tiny": Size((16, 32, 64, 96), blocks=1, grid=8),
    "small": Size((32, 64, 128, 192), blocks=2, grid=16),
    "base": Size((64, 128, 256, 512), blocks=3, grid=32),
}


class VAEOutput(NamedTuple):
    """What a forward pass returns.

    Attributes:
        reconstruction: (B, 1, H, W), not clipped, 0 below the pages.
        mu, logvar: (B, D), the posterior.
    """

    reconstruction: Tensor
    mu: Tensor
    logvar: Tensor


class VAE(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014) of pages of one width.

    Attributes:
        stride: widths and padded heights are multiples of it.
        latent_dim: D.
    """

    stride = STRIDES[-1]

    def __init__(self, config: ModelConfig, width: int, max_height: int) -> None:
        """Build the model for images `width` wide; grids reach down to `max_height` rows."""
        super().__init__()
        self.latent_dim = config.latent_dim
        self.cell = coarse_cell(width)
        rows = -(-max_height // self.stride)
        coarse = (rows * self.stride // self.cell, width // self.cell)
        self.encoder = Encoder(config, (rows, width // self.stride))
        self.decoder = Decoder(config, (rows, width // self.stride), self.cell)
        self.coarse_size = coarse
        self.to_mu = nn.Linear(math.prod(coarse), config.latent_dim)
        self.to_page = nn.Linear(config.latent_dim, math.prod(coarse))

    def forward(
        self, images: Tensor, heights: Tensor, eps: Tensor, shares: Tensor | None = None
    ) -> VAEOutput:
        """Encode, draw `z = mu + exp(logvar / 2) * eps`, decode.

        Args:
            images: (B, 1, H, W) in [0, 1], 0 below the pages; H and W are multiples of `stride`.
            heights: Long (B,), rows of each page.
            eps: (B, D), standard normal.
            shares: (B,), each page's share of its pair's latent (`mixup`); None: nothing is mixed.
        """
        mu, logvar = self.encode(images, heights)
        z = mu + torch.exp(0.5 * logvar) * eps
        if shares is not None:
            z = mix_pairs(z, shares)
        return VAEOutput(self.decode(z, heights, tuple(images.shape[2:])), mu, logvar)

    def encode(self, images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's `mu` and `logvar`, (B, D) each, of images (B, 1, H, W)."""
        mu, logvar = self.encoder(images, heights).chunk(2, dim=1)
        mu = mu + self.to_mu(self.coarse(images).flatten(1))
        # A smooth bound: exp(logvar) stays finite whatever a bad step does to the head.
        return mu, LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)

    def coarse(self, images: Tensor) -> Tensor:
        """What the linear path sees of images (B, 1, H, W): (B, 1, *coarse_size)."""
        return fit_rows(F.avg_pool2d(images, self.cell), self.coarse_size[0])

    def decode(self, z: Tensor, heights: Tensor, size: tuple[int, int]) -> Tensor:
        """The pages (B, 1, H, W) of latents (B, D), 0 below their heights, not clipped."""
        coarse = self.to_page(z).view(-1, 1, *self.coarse_size)
        coarse = fit_rows(coarse, size[0] // self.cell)
        return self.decoder(z, coarse, heights, size)

    @torch.no_grad()
    def start_from_components(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """Let the linear path be a principal component analysis, scaled to unit variance.

        Args:
            mean: (cells,), of the coarse training pages, `coarse_size` flattened.
            components: (K, cells), orthonormal rows, K at most D; further dimensions start at 0.
            deviations: (K,), standard deviation of the pages along each component.
        """
        count = len(components)
        self.to_mu.weight.zero_()
        self.to_mu.weight[:count] = components / deviations[:, None]
        self.to_mu.bias.copy_(-self.to_mu.weight @ mean)
        self.to_page.weight.zero_()
        self.to_page.weight[:, :count] = (components * deviations[:, None]).T
        self.to_page.bias.copy_(mean)
        self.encoder.head.bias[self.latent_dim :] = START_LOGVAR


def coarse_cell(width: int) -> int:
    """Image pixels per cell of the linear path's coarse page: a power of two, at most `stride`."""
    return min(VAE.stride, 2 ** max(0, int(math.log2(width / COARSE_WIDTH))))


class Encoder(nn.Module):
    """Residual stages, then pyramid pooling and a top-anchored grid, to (B, 2 D)."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        size = SIZES[config.size]
        inputs = (1, *size.channels[:-1])
        self.stages = nn.ModuleList(
            Stage(i, o, blocks=size.blocks, stride=2, attention=config.attention)
            for i, o in zip(inputs, size.channels, strict=True)
        )
        self.pyramid = PyramidPool(config.pyramid)
        self.rows = grid[0]
        self.to_grid = nn.Conv2d(size.channels[-1], size.grid, 1, bias=False)
        features = size.channels[-1] * self.pyramid.bins + size.grid * math.prod(grid)
        # Zero: the posterior starts at the linear path, with logvar 0.
        self.head = zero_(nn.Linear(features, 2 * config.latent_dim))

    def forward(self, images: Tensor, heights: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, 2 D)."""
        x = images
        for stride, stage in zip(STRIDES, self.stages, strict=True):
            rows = rows_at(heights, images.shape[2] // stride, stride)
            x = stage(x, rows)
        anchored = fit_rows(self.to_grid(x), self.rows).flatten(1)
        return self.head(torch.cat([self.pyramid(x, rows), anchored], dim=1))


class Decoder(nn.Module):
    """A top-anchored grid of features, residual stages back to pixels, on top of a coarse page."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int], cell: int) -> None:
        super().__init__()
        size = SIZES[config.size]
        self.grid, self.cell = grid, cell
        channels = size.channels[::-1]
        self.anchored = nn.Linear(config.latent_dim, size.grid * math.prod(grid))
        self.everywhere = nn.Linear(config.latent_dim, channels[0])
        self.from_grid = nn.Conv2d(size.grid, channels[0], 1, bias=False)
        # Every stage sees the coarse page that it has to add to.
        self.stages = nn.ModuleList(
            Stage(i + 1, o, blocks=size.blocks, stride=1, attention=config.attention)
            for i, o in pairwise(channels)
        )
        # Four pixels from one place (Shi et al. 2016): a stage at full resolution would cost more
        # than all the others together.
        self.add = zero_(nn.Conv2d(channels[-1], 4, 3, padding=1))

    def forward(self, z: Tensor, coarse: Tensor, heights: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents (B, D) and the coarse page (B, 1, H / cell, W / cell) to pages (B, 1, H, W)."""
        stride = STRIDES[-1]
        rows = rows_at(heights, size[0] // stride, stride)
        x = self.anchored(z).view(len(z), -1, *self.grid)
        x = self.from_grid(fit_rows(x, size[0] // stride))
        x = keep(F.silu(x + self.everywhere(z)[:, :, None, None]), rows)
        for stage in self.stages:
            stride //= 2
            rows = rows_at(heights, size[0] // stride, stride)
            x = enlarge(x, rows, 2)
            x = stage(torch.cat([x, at_stride(coarse, self.cell, stride, rows)], dim=1), rows)
        added = F.pixel_shuffle(self.add(x), 2)
        rows = rows_at(heights, size[0])
        return at_stride(coarse, self.cell, 1, rows) + keep(added, rows)


def at_stride(coarse: Tensor, cell: int, stride: int, rows: Rows) -> Tensor:
    """A coarse page, `cell` pixels per cell, as a map at `stride`; zero below the pages."""
    if stride > cell:
        return keep(F.avg_pool2d(coarse, stride // cell), rows)
    return enlarge(coarse, rows, cell // stride)
