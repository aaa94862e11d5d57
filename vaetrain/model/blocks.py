"""Blocks, and stages of them at one resolution. Feature maps are 0 below their pages."""

from __future__ import annotations

from pkgutil import resolve_name

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaetrain.model.config import ModelConfig
from vaetrain.model.layers import Conv2d
from vaetrain.model.masked import MaskedGroupNorm, Rows
from vaetrain.model.registry import ATTENTION, BLOCKS, SIZES

GROWTH = 32  # channels that a layer of a dense block adds (Huang et al. 2017, section 4)
DENSE_LAYERS = 2  # of a dense block, for each residual block of the size


def build_attention(name: str, channels: int) -> nn.Module | None:
    """Build the attention that `model.attention` names; None for `none`."""
    path = ATTENTION[name]
    return None if path is None else resolve_name(path)(channels)


class ResBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), with optional attention.

    The scale of the last norm is initialised to 0, so that a new block passes its input on (Goyal
    et al. 2017, 5.1).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, attention: str) -> None:
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = MaskedGroupNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = MaskedGroupNorm(outputs, scale=0.0)
        self.attend = build_attention(attention, outputs)
        is_identity = inputs == outputs and stride == 1
        self.shortcut = None if is_identity else Conv2d(inputs, outputs, 1, stride, bias=False)

    @classmethod
    def build_stage(
        cls, inputs: int, outputs: int, *, stride: int, blocks: int, attention: str
    ) -> list[nn.Module]:
        """Build the blocks of a stage.

        Args:
            inputs: channels, with the page's if the first block receives it.
            stride: of the first block.
            blocks: of a model's `Size`.
            attention: a key of `ATTENTION`.
        """
        first = cls(inputs, outputs, stride=stride, attention=attention)
        return [first, *(cls(outputs, outputs, attention=attention) for _ in range(blocks - 1))]

    def forward(self, x: Tensor, rows: Rows, page: Tensor | None = None) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride).

        Args:
            rows: valid rows at the output's stride.
            page: (B, 1, H, W), see `Conv2d`.
        """
        y = F.silu(self.norm1(self.conv1(x, page, rows), rows))
        y = self.norm2(self.conv2(y), rows)
        if self.attend is not None:
            y = self.attend(y, rows)
        return F.silu(y + (x if self.shortcut is None else self.shortcut(x, page, rows)))


class DenseBlock(nn.Module):
    """Dense block (Huang et al. 2017): layers see all maps before them and add `GROWTH` maps.

    A 3x3 convolution changes the resolution first. Each layer is a norm, SiLU and a 3x3
    convolution, without a bottleneck. A norm, SiLU and a 1x1 convolution to `outputs` channels end
    the block, with optional attention.
    """

    def __init__(
        self, inputs: int, outputs: int, *, layers: int, stride: int, attention: str
    ) -> None:
        super().__init__()
        self.enter = Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        widths = [outputs + GROWTH * number for number in range(layers + 1)]
        self.norms = nn.ModuleList(MaskedGroupNorm(width) for width in widths)
        self.layers = nn.ModuleList(
            nn.Conv2d(width, GROWTH, 3, padding=1, bias=False) for width in widths[:-1]
        )
        self.leave = nn.Conv2d(widths[-1], outputs, 1, bias=False)
        self.attend = build_attention(attention, outputs)

    @classmethod
    def build_stage(
        cls, inputs: int, outputs: int, *, stride: int, blocks: int, attention: str
    ) -> list[nn.Module]:
        """Build the single dense block of a stage; arguments as of `ResBlock.build_stage`."""
        layers = DENSE_LAYERS * blocks
        return [cls(inputs, outputs, layers=layers, stride=stride, attention=attention)]

    def forward(self, x: Tensor, rows: Rows, page: Tensor | None = None) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride); `page`: see `Conv2d`."""
        x = self.enter(x, page, rows)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = torch.cat([x, layer(F.silu(norm(x, rows)))], dim=1)
        x = self.leave(F.silu(self.norms[-1](x, rows)))
        return x if self.attend is None else self.attend(x, rows)


class Stage(nn.Module):
    """Blocks at one resolution, of which the first changes the resolution.

    Attributes:
        checkpoint_activations: recompute each block in the backward pass (Chen et al. 2016).
        compiled_blocks: modules that `train.compile` compiles one by one.
    """

    def __init__(self, config: ModelConfig, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        block = resolve_name(BLOCKS[config.blocks])
        count, attention = SIZES[config.size].blocks, config.attention
        self.blocks = nn.ModuleList(
            block.build_stage(inputs, outputs, stride=stride, blocks=count, attention=attention)
        )
        self.checkpoint_activations = False

    @property
    def compiled_blocks(self) -> nn.ModuleList:
        """See the class."""
        return self.blocks

    def forward(self, x: Tensor, rows: Rows, page: Tensor | None = None) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride); `page`: see `Conv2d`."""
        for block in self.blocks:
            if self.checkpoint_activations and torch.is_grad_enabled():
                # Blocks use no random numbers, so the generator's state need not be restored.
                x = checkpoint(block, x, rows, page, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rows, page)
            page = None
        return x
