"""The encoder: pages to feature maps at four strides, and these to a posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaetrain.model.blocks import EqualLinear, Stage, fit_rows, zero_
from vaetrain.model.config import ModelConfig
from vaetrain.model.gaussian import unbounded
from vaetrain.model.masked import PyramidPool, Rows, keep, rows_at
from vaetrain.model.sizes import SIZES, STRIDES

Level = tuple[Tensor, Rows]  # a feature map, zero below the pages, and the pages' rows in it


class Encoder(nn.Module):
    """Stages of blocks, each halving the resolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = SIZES[config.size].channels
        self.stages = nn.ModuleList(
            Stage(config, i, o, stride=2) for i, o in zip((1, *channels), channels, strict=False)
        )

    def forward(self, images: Tensor, heights: Tensor) -> list[Level]:
        """Images (B, 1, H, W) to maps (B, channels[i], H / STRIDES[i], W / STRIDES[i])."""
        x, levels = images, []
        for stride, stage in zip(STRIDES, self.stages, strict=True):
            rows = rows_at(heights, images.shape[2] // stride, stride)
            x = stage(x, rows)
            levels.append((x, rows))
        return levels


class VectorHead(nn.Module):
    """The deepest map to one Gaussian a page: pyramid pooling beside a top-anchored grid."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int]) -> None:
        """Build the head; the grid (rows, columns) is what the tallest page has at this stride."""
        super().__init__()
        size = SIZES[config.size]
        self.pyramid = PyramidPool(config.pyramid)
        self.rows = grid[0]
        self.to_grid = nn.Conv2d(size.channels[-1], size.grid, 1, bias=False)
        features = size.channels[-1] * self.pyramid.bins + size.grid * math.prod(grid)
        # Zero: the posterior starts at the linear path, with logvar 0.
        self.head = zero_(EqualLinear(features, 2 * config.latent_dim))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, C, H / 16, W / 16) to `mu` and `logvar` side by side, (B, 2 D)."""
        anchored = fit_rows(self.to_grid(x), self.rows).flatten(1)
        return self.head(torch.cat([self.pyramid(x, rows), anchored], dim=1))

    @torch.no_grad()
    def start_logvar(self, value: float) -> None:
        """Let every posterior start with this log variance."""
        dimensions = self.head.out_features // 2
        self.head.bias[dimensions:] = unbounded(value) / self.head.scale


class SpatialHead(nn.Module):
    """The deepest map to one Gaussian at each of its places."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head = zero_(nn.Conv2d(SIZES[config.size].channels[-1], 2 * config.latent_dim, 1))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, C, h, w) to `mu` and `logvar` side by side, (B, 2 D, h, w); zero below the pages."""
        return keep(self.head(x), rows)
