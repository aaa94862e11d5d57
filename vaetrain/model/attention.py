"""Attention at the end of a block, over the page only. Feature maps are 0 below their pages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vaetrain.model.full_precision import widened
from vaetrain.model.masked import Rows, sum_dtype


class MaskedCBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018): gates per channel, then per pixel.

    Means and maxima are taken over the page only; 0 below the page stays 0.

    Attributes:
        reads_inner_weights: the layers are not called, only their weights are used; for engines
            that gather weights when a layer is called.
    """

    reads_inner_weights = True

    def __init__(self, channels: int, reduction: int = 8, kernel: int = 7) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.locate = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Gate (B, C, H, W), 0 below the pages."""
        layers = self.squeeze, self.excite, self.locate
        parameters = (each for layer in layers for each in (layer.weight, layer.bias))
        # The gates are computed in float32: from large maps they, and more so their gradients,
        # exceed the range of fp16, and the sigmoid's gradient makes inf * 0 = nan of it.
        with torch.autocast(x.device.type, enabled=False):
            return _CBAM.apply(x, rows.ratio, rows.floor, *parameters)


class _CBAM(torch.autograd.Function):
    """Both gates with a manual gradient, in two thirds of autograd's operations.

    The linear layers are convolutions with a 1x1 kernel, whose three gradients are one operation.
    Pixels that are equally the highest share the gradient of a maximum, as in `Tensor.amax`.
    Comparisons write into a map of floats that is no longer used: on a CPU, sums over bools take
    twenty times as long, and a product of a bool and a float four times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ratio: Tensor, floor: Tensor, *parameters: Tensor) -> Tensor:
        squeeze, squeeze_bias, excite, excite_bias, locate, locate_bias = parameters
        squeeze, excite = squeeze[:, :, None, None], excite[:, :, None, None]
        mean = x.mean(dim=(2, 3), keepdim=True, dtype=sum_dtype(x)).mul_(ratio)
        highest = widened(x.amax(dim=3, keepdim=True)).add_(floor).amax(dim=2, keepdim=True)
        moments = torch.cat([mean, highest], dim=2)
        hidden = F.conv2d(moments, squeeze, squeeze_bias).relu_()
        logits = F.conv2d(hidden, excite, excite_bias)
        channel_gate = logits.sum(dim=2, keepdim=True).sigmoid_()
        gated = x * channel_gate.to(x.dtype)
        mean = gated.mean(dim=1, keepdim=True, dtype=sum_dtype(x))
        profile = torch.cat([mean, widened(gated.amax(dim=1, keepdim=True))], dim=1)
        pixel_gate = F.conv2d(profile, locate, locate_bias, padding=locate.shape[2] // 2).sigmoid_()
        gates = channel_gate, pixel_gate
        ctx.save_for_backward(
            x, ratio, floor, squeeze, excite, locate, moments, hidden, gated, profile, *gates
        )
        return gated * pixel_gate.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, ratio, floor, *kernels, moments, hidden, gated, profile, channel_gate, pixel_gate = (
            ctx.saved_tensors
        )
        squeeze, excite, locate = kernels
        dtype = x.dtype
        # Products of gradients and maps in half precision overflow, or lose small values.
        grad, x, gated = widened(grad), widened(x), widened(gated)

        product = grad * gated
        grad_gate = product.sum(dim=1, keepdim=True)
        grad_profile, *of_locate = _convolution_gradients(
            _of_logits(grad_gate, pixel_gate), profile, locate
        )
        grad_mean, grad_highest = grad_profile.split(1, dim=1)
        is_highest = torch.eq(gated, profile[:, 1:], out=product)
        grad_highest = grad_highest / is_highest.sum(dim=1, keepdim=True)
        grad = (grad * pixel_gate).add_(grad_mean, alpha=1 / x.shape[1])
        grad.addcmul_(is_highest, grad_highest)

        product = torch.mul(grad, x, out=product)
        grad_gate = product.sum(dim=(2, 3), keepdim=True)
        # The logits are the sum over the mean's and the maximum's.
        grad_logits = _of_logits(grad_gate, channel_gate).expand(-1, -1, 2, -1)
        grad_hidden, *of_excite = _convolution_gradients(grad_logits, hidden, excite)
        grad_hidden = torch.ops.aten.threshold_backward(grad_hidden, hidden, 0)
        grad_moments, *of_squeeze = _convolution_gradients(grad_hidden, moments, squeeze)
        grad_mean, grad_highest = grad_moments.split(1, dim=2)
        # Below the page nothing equals `highest - floor`.
        is_highest = torch.eq(x, moments[:, :, 1:] - floor, out=product)
        grad_highest = grad_highest / is_highest.sum(dim=(2, 3), keepdim=True)
        grad.mul_(channel_gate).addcmul_(grad_mean, ratio, value=1 / (x.shape[2] * x.shape[3]))
        grad.addcmul_(is_highest, grad_highest)

        of_layers = (each.view(each.shape[:2]) for each in (of_squeeze[0], of_excite[0]))
        squeeze, excite = of_layers
        return (
            grad.to(dtype),
            None,
            None,
            squeeze,
            of_squeeze[1],
            excite,
            of_excite[1],
            *of_locate,
        )


def _of_logits(grad: Tensor, gate: Tensor) -> Tensor:
    """Return the gradient of a sigmoid's input from that of its output, the gate."""
    return torch.ops.aten.sigmoid_backward(grad, gate)


def _convolution_gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of input, weight and bias of a padded convolution, in one operation."""
    padding = [size // 2 for size in weight.shape[2:]]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], [1, 1], padding, [1, 1], False, [0, 0], 1, [True] * 3
    )
