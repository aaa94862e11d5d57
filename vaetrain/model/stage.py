"""Stage: the blocks at one resolution."""

from __future__ import annotations

from pkgutil import resolve_name

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import Rows
from vaetrain.model.registry import BLOCKS
from vaetrain.model.sizes import SIZES


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
