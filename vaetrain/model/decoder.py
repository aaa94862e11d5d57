"""Decoder from a latent and a coarse page to a page, and its first layers (seeds)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pkgutil import resolve_name

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.blocks import Stage
from vaetrain.model.config import ModelConfig
from vaetrain.model.encoder import Level
from vaetrain.model.layers import enlarge, fit_rows, four_pixels, zero_
from vaetrain.model.masked import Rows, keep
from vaetrain.model.registry import SIZES, SKIPS, STRIDES


class VectorSeed(nn.Module):
    """First layer of the decoder for a vector latent.

    The feature map is the sum of a grid, aligned with the top of the page, and of a vector that is
    the same at all positions.
    """

    def __init__(self, config: ModelConfig, grid: tuple[int, int]) -> None:
        """Build the layer; `grid` is (rows, columns) of the map for the tallest page."""
        super().__init__()
        size = SIZES[config.size]
        self.grid = grid
        self.anchored = nn.Linear(config.latent_dim, size.grid * math.prod(grid))
        self.everywhere = nn.Linear(config.latent_dim, size.channels[-1])
        self.from_grid = nn.Conv2d(size.grid, size.channels[-1], 1, bias=False)

    def forward(self, z: Tensor, height: int) -> Tensor:
        """Map (B, D) to (B, C, height, columns)."""
        x = self.anchored(z).unflatten(1, (-1, *self.grid))
        return self.from_grid(fit_rows(x, height)) + self.everywhere(z)[:, :, None, None]


class SpatialSeed(nn.Module):
    """First layer of the decoder for a spatial latent: a convolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.enter = nn.Conv2d(config.latent_dim, SIZES[config.size].channels[-1], 3, padding=1)

    def forward(self, z: Tensor, height: int) -> Tensor:
        """Map (B, D, height, columns) to (B, C, height, columns)."""
        return self.enter(z)


class Decoder(nn.Module):
    """Stages of blocks, from the feature map of the seed to an image.

    Each stage also receives the coarse page. Its values are to be added to the coarse page, see
    `outputs`.

    Attributes:
        skips: skip connections, from coarse to fine; empty for `model.skips=none`.
        skip_places: number of stages before each of them.
        has_ladder: whether the skip connections have latents of their own.
    """

    def __init__(self, config: ModelConfig, seed: nn.Module, cell: int, values: int) -> None:
        """Build the decoder.

        Args:
            seed: its first layer.
            cell: image pixels per cell of the coarse page.
            values: number of values for each pixel.
        """
        super().__init__()
        channels = SIZES[config.size].channels[::-1]
        self.seed, self.cell = seed, cell
        self.stages = nn.ModuleList(
            Stage(config, i + 1, o, stride=1) for i, o in pairwise(channels)
        )
        self.skips = nn.ModuleList()
        self.skip_places: list[int] = []
        self.has_ladder = False
        if SKIPS[config.skips] is not None:
            skip = resolve_name(SKIPS[config.skips])
            levels = skip.build_levels(config)
            self.skips.extend(levels.values())
            self.skip_places = list(levels)
            self.has_ladder = skip.has_latent
        # Each position gives four pixels (Shi et al. 2016), because another stage at full
        # resolution would cost more than all other stages together.
        self.add = zero_(nn.Conv2d(channels[-1], 4 * values, 3, padding=1))

    def forward(
        self,
        z: Tensor,
        coarse: Tensor,
        page_rows: Sequence[Rows],
        size: tuple[int, int],
        features: list[Level] | None = None,
        gate: Tensor | None = None,
        eps: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode a latent to a page.

        Args:
            z: (B, D) or (B, D, H / 16, W / 16).
            coarse: (B, 1, H / cell, W / cell).
            page_rows: valid rows of the image, and at each of `STRIDES`.
            size: (H, W).
            features: the encoder's maps, for skip connections; None: no skip connections.
            gate: (B,) in [0, 1], 1 for open skip connections; required with features.
            eps: noise of each level of a ladder, (B, C, h, w); empty: use the mean of each level.

        Returns: the coarse page at full size, (B, 1, H, W), and the values to add to it,
            (B, values, H, W), both 0 below the pages; the KL of each level of a ladder in nats,
            float32 (B, levels).
        """
        stride = STRIDES[-1]
        x = keep(F.silu(self.seed(z, size[0] // stride)), page_rows[-1])
        level_kl = []
        for number in range(len(STRIDES)):
            rows = page_rows[-1 - number]
            if number > 0:
                stride //= 2
                x = self.stages[number - 1](x, rows, at_stride(coarse, self.cell, stride, rows))
            if number in self.skip_places:
                index = self.skip_places.index(number)
                # The encoder's maps are ordered from fine to coarse.
                encoded = None if features is None else features[-1 - number][0]
                x, kl = self.skips[index](x, encoded, gate, eps[index] if eps else None, rows)
                if kl is not None:
                    level_kl.append(kl)
        rows = page_rows[0]
        added = keep(four_pixels(self.add(x)), rows)
        if level_kl:
            ladder_kl = torch.stack(level_kl, 1)
        else:
            ladder_kl = added.new_zeros(z.shape[0], 0, dtype=torch.float32)
        return at_stride(coarse, self.cell, 1, rows), added, ladder_kl


def at_stride(coarse: Tensor, cell: int, stride: int, rows: Rows) -> Tensor:
    """Resample a coarse page with cells of `cell` pixels to `stride` pixels; 0 below the pages."""
    if stride > cell:
        return keep(F.avg_pool2d(coarse, stride // cell), rows)
    return enlarge(coarse, rows, cell // stride)
