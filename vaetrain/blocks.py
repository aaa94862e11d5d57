"""Blocks of the encoder and the decoder. Feature maps are zero below their pages, in and out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.masked import MaskedCBAM, MaskedGroupNorm, Rows, keep


class ResBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), with attention where asked for.

    The last norm starts at 0, so that a fresh block passes its input on (Goyal et al. 2017, 5.1).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, attention: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = MaskedGroupNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = MaskedGroupNorm(outputs, scale=0.0)
        self.attend = MaskedCBAM(outputs) if attention == "cbam" else None
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride).

        Args:
            rows: the pages' rows at the output's stride.
        """
        y = F.silu(self.norm1(self.conv1(x), rows), inplace=True)
        y = self.norm2(self.conv2(y), rows)
        if self.attend is not None:
            y = self.attend(y, rows)
        return F.silu(y + self.shortcut(x))


class Stage(nn.Module):
    """Blocks at one resolution, the first of them changing it."""

    def __init__(
        self, inputs: int, outputs: int, *, blocks: int, stride: int, attention: str
    ) -> None:
        super().__init__()
        first = ResBlock(inputs, outputs, stride=stride, attention=attention)
        rest = [ResBlock(outputs, outputs, attention=attention) for _ in range(blocks - 1)]
        self.blocks = nn.ModuleList([first, *rest])

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        for block in self.blocks:
            x = block(x, rows)
        return x


def enlarge(x: Tensor, rows: Rows, factor: int) -> Tensor:
    """(B, C, H, W) with each pixel `factor` times along both axes; zero below the new `rows`."""
    x = F.interpolate(x, scale_factor=factor, mode="nearest")
    return keep(x, rows)


def fit_rows(x: Tensor, height: int) -> Tensor:
    """(B, C, H, W) cut, or extended by zeros, to `height` rows."""
    missing = height - x.shape[2]
    return F.pad(x, (0, 0, 0, missing)) if missing > 0 else x[:, :, :height]


def zero_(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters 0: it starts as if it were absent."""
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    return layer
