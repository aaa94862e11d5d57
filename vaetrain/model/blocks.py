"""Blocks of the encoder and the decoder. Feature maps are zero below their pages, in and out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import MaskedCBAM, MaskedGroupNorm, Rows, keep
from vaetrain.model.sizes import SIZES

GROWTH = 32  # channels that a layer of a dense block adds (Huang et al. 2017, section 4)
DENSE_LAYERS = 2  # of a dense block, for each residual block of the size


class Conv2d(nn.Conv2d):
    """A convolution, also of maps that are enlarged twofold and lie beside a page.

    Maps and page need not be put into one tensor, nor the maps be enlarged: a transposed
    convolution gives the same for half the work, and of one pixel the result is enlarged.
    """

    def forward(self, x: Tensor, page: Tensor | None = None, rows: Rows | None = None) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride).

        Where a page's rows are odd the maps' last row is half below it: a kernel of 3x3 sees both
        halves, alone as in a batch. Its result is not cleared below the pages.

        Args:
            page: (B, 1, H, W), the last of the inputs; `x` then has the others, at half its size.
            rows: with a page, the pages' rows in it.
        """
        if page is None:
            return self._convolved(x, self.weight, self.bias)
        of_maps, of_page = self.weight.tensor_split([x.shape[1]], dim=1)
        if self.kernel_size == (1, 1):
            y = enlarge(self._convolved(x, of_maps, None), rows, 2)
        else:
            y = F.conv_transpose2d(x, _of_enlarged(of_maps), stride=2, padding=1)
        return y + self._convolved(page, of_page, self.bias)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            # Of the pixels it sees alone: on a CPU a stride costs more than their copy.
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
            return F.conv2d(x, weight, bias)
        return self._conv_forward(x, weight, bias)


def _of_enlarged(weight: Tensor) -> Tensor:
    """What a 3x3 convolution does to a map enlarged twofold, as a transposed one of the map itself.

    Enlarging is itself a transposed convolution, by 2x2 ones. The two together have a kernel of
    4x4, of which every second row and column meets a pixel: 4 products instead of 9.

    Args:
        weight: (outputs, inputs, 3, 3).

    Returns: (inputs, outputs, 4, 4), for a stride of 2 and a padding of 1.
    """
    kernel = F.pad(weight.flip(2, 3), (1, 1, 1, 1)).transpose(0, 1)
    kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
    return kernel[:, :, :, 1:] + kernel[:, :, :, :-1]


class ResBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), with attention where asked for.

    The last norm starts at 0, so that a fresh block passes its input on (Goyal et al. 2017, 5.1).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, attention: str) -> None:
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = MaskedGroupNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = MaskedGroupNorm(outputs, scale=0.0)
        self.attend = MaskedCBAM(outputs) if attention == "cbam" else None
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor, rows: Rows, page: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride).

        Args:
            rows: the pages' rows at the output's stride.
            page: (B, 1, H, W), see `Conv2d`.
        """
        y = F.silu(self.norm1(self.conv1(x, page, rows), rows))
        y = self.norm2(self.conv2(y), rows)
        if self.attend is not None:
            y = self.attend(y, rows)
        return F.silu(y + (x if self.shortcut is None else self.shortcut(x, page, rows)))


class DenseBlock(nn.Module):
    """Layers that each see all maps before them and add `GROWTH` (Huang et al. 2017).

    A 3x3 convolution enters at the new resolution; layers are norm, SiLU and a 3x3 convolution,
    without bottlenecks; a norm, SiLU and a 1x1 convolution leave with `outputs` channels.
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
        self.attend = MaskedCBAM(outputs) if attention == "cbam" else None

    def forward(self, x: Tensor, rows: Rows, page: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride); `page` as of `ResBlock`."""
        x = self.enter(x, page, rows)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = torch.cat([x, layer(F.silu(norm(x, rows)))], dim=1)
        x = self.leave(F.silu(self.norms[-1](x, rows)))
        return x if self.attend is None else self.attend(x, rows)


class Stage(nn.Module):
    """Blocks at one resolution, the first of them changing it.

    Attributes:
        checkpoint_activations: compute each block anew in the backward pass (Chen et al. 2016).
    """

    def __init__(self, config: ModelConfig, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        count, attention = SIZES[config.size].blocks, config.attention
        if config.blocks == "densenet":
            layers = DENSE_LAYERS * count
            first: nn.Module = DenseBlock(
                inputs, outputs, layers=layers, stride=stride, attention=attention
            )
            self.blocks = nn.ModuleList([first])
        else:
            first = ResBlock(inputs, outputs, stride=stride, attention=attention)
            rest = [ResBlock(outputs, outputs, attention=attention) for _ in range(count - 1)]
            self.blocks = nn.ModuleList([first, *rest])
        self.checkpoint_activations = False

    def forward(self, x: Tensor, rows: Rows, page: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride); `page` as of `ResBlock`."""
        for block in self.blocks:
            if self.checkpoint_activations and torch.is_grad_enabled():
                # Nothing in a block is random.
                x = checkpoint(block, x, rows, page, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rows, page)
            page = None
        return x


class EqualLinear(nn.Linear):
    """A linear layer whose outputs are scaled by 1 / sqrt(inputs), its parameters by the inverse.

    The learning rate is equalised (Karras et al. 2018, section 4.1): Adam moves every weight by
    its rate, so what it does to the sum over thousands of inputs would grow with their number.
    """

    def reset_parameters(self) -> None:
        """Start where `nn.Linear` does."""
        nn.init.uniform_(self.weight, -1, 1)
        nn.init.uniform_(self.bias, -1, 1)

    @property
    def scale(self) -> float:
        """What the parameters are multiplied by."""
        return self.in_features**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return self.scale * super().forward(x)


def enlarge(x: Tensor, rows: Rows, factor: int) -> Tensor:
    """(B, C, H, W) with each pixel `factor` times along both axes; zero below the new `rows`."""
    x = F.interpolate(x, scale_factor=factor, mode="nearest")
    return keep(x, rows)


def fit_rows(x: Tensor, height: int) -> Tensor:
    """(B, C, H, W) cut, or extended by zeros, to `height` rows."""
    x = x[:, :, :height]
    # The exporter knows no height yet: it must be able to tell that this is never negative.
    return F.pad(x, (0, 0, 0, height - x.shape[2]))


def zero_(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters 0: it starts as if it were absent."""
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    return layer
