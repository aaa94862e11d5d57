"""Layers that several parts of the model share.

Feature maps are 0 below their pages, see `masked`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.masked import Rows, keep


class Conv2d(nn.Conv2d):
    """Convolution with an optional second input, the page at twice the resolution of the maps.

    With a page, the result is the convolution of the maps, enlarged twofold, and the page in one
    tensor, but neither tensor is created: a transposed convolution of the small maps gives the same
    result with half the work, and for a 1x1 kernel the small result is enlarged.
    """

    def forward(self, x: Tensor, page: Tensor | None = None, rows: Rows | None = None) -> Tensor:
        """Convolve (B, inputs, H, W) to (B, outputs, H / stride, W / stride).

        If a page has an odd number of rows, the last row of the maps lies half below it. A 3x3
        kernel then reads both halves, in a batch as for the page alone. The result with a page is
        not set to 0 below the pages.

        Args:
            page: (B, 1, H, W), the last of the inputs; `x` then has the other inputs at half the
                resolution.
            rows: valid rows of `page`; required with it.
        """
        if page is None:
            return self._convolve(x, self.weight, self.bias)
        # The gradient of a split is one concatenation, that of two slices three operations.
        map_weight, page_weight = self.weight.split([x.shape[1], page.shape[1]], dim=1)
        if self.kernel_size == (1, 1):
            y = enlarge(self._convolve(x, map_weight, None), rows, 2)
        else:
            y = F.conv_transpose2d(x, _enlarging_kernel(map_weight), stride=2, padding=1)
        return y + self._convolve(page, page_weight, self.bias)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            # Copy the pixels that are used: on a CPU a strided convolution costs more than that.
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
            return F.conv2d(x, weight, bias)
        return self._conv_forward(x, weight, bias)


def _enlarging_kernel(weight: Tensor) -> Tensor:
    """Return the transposed convolution that equals twofold enlarging and a 3x3 convolution.

    Enlarging is a transposed convolution with a 2x2 kernel of ones. The composition has a 4x4
    kernel, of which every second row and column meets a pixel: 4 products instead of 9.

    Args:
        weight: (outputs, inputs, 3, 3).

    Returns: (inputs, outputs, 4, 4), for a stride of 2 and a padding of 1.
    """
    # Sums over the windows of the 2x2 kernel.
    if torch.compiler.is_exporting():
        # ONNX's AveragePool has no divisor: the exporter drops it, and exports were wrong.
        kernel = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1) * 4
    else:
        kernel = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
    return kernel.transpose(0, 1)


class EqualLinear(nn.Linear):
    """Linear layer with equalised learning rate (Karras et al. 2018, section 4.1).

    Outputs are scaled by 1 / sqrt(inputs), and parameters are larger by the inverse. Adam moves
    every weight by about the learning rate, so without the scale the change of a sum over thousands
    of inputs would grow with their number.
    """

    def reset_parameters(self) -> None:
        """Initialise as `nn.Linear` does, after scaling."""
        nn.init.uniform_(self.weight, -1, 1)
        nn.init.uniform_(self.bias, -1, 1)

    @property
    def scale(self) -> float:
        """Factor of the parameters."""
        return self.in_features**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return self.scale * super().forward(x)


def enlarge(x: Tensor, rows: Rows, factor: int) -> Tensor:
    """Repeat each pixel of (B, C, H, W) `factor` times along both axes; 0 below the new `rows`."""
    x = F.interpolate(x, scale_factor=factor, mode="nearest")
    return keep(x, rows)


def four_pixels(x: Tensor) -> Tensor:
    """Return `F.pixel_shuffle(x, 2)`: (B, 4 C, H, W) to (B, C, 2 H, 2 W).

    For 20 channels this copy takes a fifth of the time of torch's kernel on a CPU.
    """
    batch, channels, height, width = x.shape
    x = x.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, channels // 4, 2 * height, 2 * width)


def fit_rows(x: Tensor, height: int) -> Tensor:
    """Cut (B, C, H, W) to `height` rows, or pad it with zeros."""
    x = x[:, :, :height]
    # Written so that the ONNX exporter, to which heights are symbols, can prove it is not negative.
    return F.pad(x, (0, 0, 0, height - x.shape[2]))


def zero_(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to 0, so that it adds nothing at first; return the layer."""
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    return layer
