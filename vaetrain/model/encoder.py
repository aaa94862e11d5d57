"""The encoder, from pages to feature maps, and the heads, from the last map to a posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaetrain.model.blocks import Stage
from vaetrain.model.config import ModelConfig
from vaetrain.model.gaussian import unbounded
from vaetrain.model.layers import EqualLinear, fit_rows, zero_
from vaetrain.model.masked import PyramidPool, Rows, keep
from vaetrain.model.registry import SIZES

Level = tuple[Tensor, Rows]  # a feature map, 0 below the pages, and its valid rows


class Encoder(nn.Module):
    """Stages of blocks, each of which halves the resolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = SIZES[config.size].channels
        self.stages = nn.ModuleList(
            Stage(config, i, o, stride=2) for i, o in zip((1, *channels), channels, strict=False)
        )

    def forward(self, images: Tensor, rows: Sequence[Rows]) -> list[Level]:
        """Map images (B, 1, H, W) to maps (B, channels[i], H / STRIDES[i], W / STRIDES[i]).

        Args:
            rows: at each of `STRIDES`.
        """
        x, levels = images, []
        for of_map, stage in zip(rows, self.stages, strict=True):
            x = stage(x, of_map)
            levels.append((x, of_map))
        return levels


class VectorHead(nn.Module):
    """Head of a vector latent: pyramid pooling and a top-anchored grid to one Gaussian per page."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int]) -> None:
        """Build the head; `grid` is (rows, columns) of the tallest page's last map."""
        super().__init__()
        size = SIZES[config.size]
        self.pyramid = PyramidPool(config.pyramid)
        self.rows = grid[0]
        self.to_grid = nn.Conv2d(size.channels[-1], size.grid, 1, bias=False)
        features = size.channels[-1] * self.pyramid.bins + size.grid * math.prod(grid)
        # Zero, so that the initial posterior is that of the linear path with logvar 0.
        self.head = zero_(EqualLinear(features, 2 * config.latent_dim))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Map (B, C, H / 16, W / 16) to concatenated `mu` and `logvar`, (B, 2 D)."""
        anchored = fit_rows(self.to_grid(x), self.rows).flatten(1)
        return self.head(torch.cat([self.pyramid(x, rows), anchored], dim=1))

    @torch.no_grad()
    def start_logvar(self, value: float) -> None:
        """Set the initial log variance of every posterior."""
        dimensions = self.head.out_features // 2
        self.head.bias[dimensions:] = unbounded(value) / self.head.scale


class SpatialHead(nn.Module):
    """Head of a spatial latent: one Gaussian at each position of the last map."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head = zero_(nn.Conv2d(SIZES[config.size].channels[-1], 2 * config.latent_dim, 1))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Map (B, C, h, w) to concatenated `mu` and `logvar`, (B, 2 D, h, w), 0 below the pages."""
        return keep(self.head(x), rows)
