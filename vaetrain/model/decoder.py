"""The decoder: a latent and the coarse page of the linear path to a page."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.blocks import Stage, enlarge, fit_rows, zero_
from vaetrain.model.config import ModelConfig
from vaetrain.model.encoder import Level
from vaetrain.model.masked import Rows, keep, rows_at
from vaetrain.model.sizes import SIZES, STRIDES
from vaetrain.model.skips import GatedSkip, Ladder


class VectorSeed(nn.Module):
    """A vector latent to the deepest map: a top-anchored grid, and the same everywhere."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int]) -> None:
        """Build the layer; the grid (rows, columns) is what the tallest page has at this stride."""
        super().__init__()
        size = SIZES[config.size]
        self.grid = grid
        self.anchored = nn.Linear(config.latent_dim, size.grid * math.prod(grid))
        self.everywhere = nn.Linear(config.latent_dim, size.channels[-1])
        self.from_grid = nn.Conv2d(size.grid, size.channels[-1], 1, bias=False)

    def forward(self, z: Tensor, height: int) -> Tensor:
        """(B, D) to (B, C, height, columns)."""
        x = self.anchored(z).unflatten(1, (-1, *self.grid))
        return self.from_grid(fit_rows(x, height)) + self.everywhere(z)[:, :, None, None]


class SpatialSeed(nn.Module):
    """A spatial latent to the deepest map."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.enter = nn.Conv2d(config.latent_dim, SIZES[config.size].channels[-1], 3, padding=1)

    def forward(self, z: Tensor, height: int) -> Tensor:
        """(B, D, height, columns) to (B, C, height, columns)."""
        return self.enter(z)


class Decoder(nn.Module):
    """Stages back to pixels, on top of a coarse page that each of them sees."""

    def __init__(self, config: ModelConfig, seed: nn.Module, cell: int) -> None:
        super().__init__()
        channels = SIZES[config.size].channels[::-1]
        self.seed, self.cell = seed, cell
        self.stages = nn.ModuleList(
            Stage(config, i + 1, o, stride=1) for i, o in pairwise(channels)
        )
        self.skips = nn.ModuleList()
        if config.skips != "none":
            kind = GatedSkip if config.skips == "gated" else Ladder
            self.skips.extend(kind(c) for c in channels[1:])
        self.is_ladder = config.skips == "hierarchical"
        # Four pixels from one place (Shi et al. 2016): a stage at full resolution would cost more
        # than all the others together.
        self.add = zero_(nn.Conv2d(channels[-1], 4, 3, padding=1))

    def forward(
        self,
        z: Tensor,
        coarse: Tensor,
        heights: Tensor,
        size: tuple[int, int],
        features: list[Level] | None = None,
        gate: Tensor | None = None,
        eps: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A latent and what skips bring to a page.

        Args:
            z: (B, D) or (B, D, H / 16, W / 16).
            coarse: (B, 1, H / cell, W / cell).
            heights: Long (B,), rows of each page.
            size: (H, W).
            features: the encoder's maps, for skips; None: the latent alone.
            gate: (B,) in [0, 1], how far skips are open; needed with features.
            eps: a ladder's noise for each level, (B, 4, h, w); none: its means.

        Returns: the coarse page at full size and what to add to it, (B, 1, H, W) both and 0 below
            the pages, and a ladder's KL in nats, float32 (B, levels).
        """
        stride = STRIDES[-1]
        rows = rows_at(heights, size[0] // stride, stride)
        x = keep(F.silu(self.seed(z, size[0] // stride)), rows)
        nats = []
        for number, stage in enumerate(self.stages):
            stride //= 2
            rows = rows_at(heights, size[0] // stride, stride)
            x = stage(x, rows, at_stride(coarse, self.cell, stride, rows))
            # The encoder's maps come from fine to coarse, and lack none of the decoder's strides.
            here = None if features is None else features[-2 - number][0]
            if self.is_ladder:
                noise = eps[number] if eps else None
                x, level = self.skips[number](x, here, gate, noise, rows)
                nats.append(level)
            elif self.skips and here is not None:
                x = self.skips[number](x, here, gate)
        rows = rows_at(heights, size[0])
        added = keep(F.pixel_shuffle(self.add(x), 2), rows)
        ladder = (
            torch.stack(nats, 1) if nats else added.new_zeros(z.shape[0], 0, dtype=torch.float32)
        )
        return at_stride(coarse, self.cell, 1, rows), added, ladder


def at_stride(coarse: Tensor, cell: int, stride: int, rows: Rows) -> Tensor:
    """A coarse page, `cell` pixels per cell, as a map at `stride`; zero below the pages."""
    if stride > cell:
        return keep(F.avg_pool2d(coarse, stride // cell), rows)
    return enlarge(coarse, rows, cell // stride)
