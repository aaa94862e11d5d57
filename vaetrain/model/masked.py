"""Layers for pages of different heights in one batch.

The mask of a page is one integer, its height; widths are full. All layers keep one invariant:

    Every feature map is 0 below its page's rows.

Then a convolution's zero padding is the same for a page alone and in a taller batch, and
convolutions need no mask. The values that a convolution writes below the page are set to 0 by the
masked norm after it, which includes the mask in its scale and shift. So no layer passes over the
memory only to apply a mask. `keep` restores the invariant where no norm follows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vaetrain.model.full_precision import widened

GROUPS = 8  # of a norm, if the channels are divisible by it


class Rows(NamedTuple):
    """Valid rows of feature maps.

    Attributes:
        mask: float32 (B, 1, H, 1), 1 on the page, 0 below.
        count: float32 (B,), rows on the page, 0 to H.
    """

    mask: Tensor
    count: Tensor


def rows_at(heights: Tensor, height: int, stride: int = 1) -> Rows:
    """Return the rows of a map, at a stride of the image, that hold a pixel of the page.

    Args:
        heights: Long (B,), rows of each page in the image.
        height: rows of the map.
        stride: image pixels per row of the map.
    """
    count = torch.div(heights + (stride - 1), stride, rounding_mode="floor").clamp(max=height)
    mask = torch.arange(height, device=heights.device) < count[:, None]
    return Rows(mask[:, None, :, None].float(), count.float())


def keep(x: Tensor, rows: Rows) -> Tensor:
    """Set `x` (B, C, H, W) to 0 below the pages."""
    return x * rows.mask.to(x.dtype)


class MaskedGroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) with moments over the page only; 0 below the page.

    There are `GROUPS` groups, or the greatest common divisor of `GROUPS` and the channels. Moments
    are computed in float32 in two passes, so that a large mean does not cancel the variance; the
    output has the input's dtype. `scale` is the initial weight: with 0 the layers before the norm
    contribute nothing at first.
    """

    def __init__(self, channels: int, scale: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = math.gcd(GROUPS, channels)
        self.eps = eps
        self.weight = nn.Parameter(torch.full((channels,), scale))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Normalise (B, C, H, W); values of `x` below the pages are ignored."""
        return _GroupNorm.apply(x, self.weight, self.bias, *rows, self.groups, self.eps)


class _GroupNorm(torch.autograd.Function):
    """Masked group norm with a manual gradient, in half of autograd's passes over memory.

    Maps are viewed as (B, groups, C / groups, H, W), so that a group's moments broadcast. Masked
    sums run over the width first, so that the mask multiplies rows, not pixels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mask: Tensor,
        count: Tensor,
        groups: int,
        eps: float,
    ) -> Tensor:
        grouped, mask = x.unflatten(1, (groups, -1)), mask[:, None]
        size = (count * (grouped.shape[2] * x.shape[3])).clamp(min=1).view(-1, 1, 1, 1, 1)
        row_sums = grouped.sum(dim=4, keepdim=True, dtype=torch.float32) * mask
        # 0 below the page from here on: sums need no mask, and contiguous sums are faster.
        centred = (grouped - row_sums.sum(dim=(2, 3), keepdim=True) / size).mul_(mask)
        # `vector_norm` sums squares without storing a map of them.
        squares = torch.linalg.vector_norm(centred, dim=(2, 3, 4), keepdim=True).square()
        rstd = (squares / size + eps).rsqrt()
        remaining = rstd  # factor from the map that is kept to the normalised map
        if x.itemsize < 4:
            # Kept normalised: differences from the mean can exceed the range of fp16.
            centred.mul_(rstd)
            remaining = torch.ones_like(rstd)
        ctx.save_for_backward(centred.to(x.dtype), weight, rstd, remaining, mask, size)
        scale, shift = (each.view(groups, -1, 1, 1) for each in (weight, bias))
        return (centred * (remaining * scale)).add_(shift * mask).flatten(1, 2).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, weight, rstd, remaining, mask, size = ctx.saved_tensors
        # Products of gradients and maps in half precision overflow, or lose small values.
        grad = widened(grad).unflatten(1, centred.shape[1:3])
        scale = weight.view(*centred.shape[1:3], 1, 1)
        row_sums = grad.sum(dim=4, keepdim=True, dtype=torch.float32) * mask
        grad_sum = row_sums.sum(dim=3, keepdim=True)
        grad_dot = (grad * centred).sum(dim=(3, 4), keepdim=True, dtype=torch.float32)
        mean_grad, mean_dot = (
            (each * scale).sum(dim=2, keepdim=True) / size for each in (grad_sum, grad_dot)
        )
        grad_x = grad * (rstd * scale * mask)
        # In place: on a CPU a pass that writes to new memory takes as long as three.
        grad_x.addcmul_(centred, remaining.square() * rstd * mean_dot, value=-1)
        grad_x.sub_(rstd * mean_grad * mask)
        grad_weight, grad_bias = (grad_dot * remaining).sum(0).flatten(), grad_sum.sum(0).flatten()
        grad_x = grad_x.flatten(1, 2).to(centred.dtype)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _page_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum (B, C, H, W) over the page's pixels: float32 (B, C)."""
    return (x.sum(dim=3, dtype=torch.float32) * mask[:, :, :, 0]).sum(dim=2)


class PyramidPool(nn.Module):
    """Spatial pyramid pooling (He et al. 2014): means over n x n bins for each level n.

    Bins divide each page's own rows, and the width, evenly. A row or column on the border of two
    bins counts in each by its share, so a page may have fewer rows than bins. The pooling consists
    of two matrix products, because adaptive pooling to a grid that does not divide a dynamic size
    cannot be exported to ONNX.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.bins = sum(level * level for level in levels)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Pool (B, C, H, W) to float32 (B, C * bins)."""
        x = x.float()
        width = x.new_full((1,), x.shape[3])
        pooled = []
        with torch.autocast(x.device.type, enabled=False):
            for level in self.levels:
                down = bin_weights(rows.count, level, x.shape[2])
                across = bin_weights(width, level, x.shape[3])
                bands = torch.einsum("bnh,bchw->bcnw", down, x)
                pooled.append((bands @ across[0].T).flatten(1))
        return torch.cat(pooled, dim=1)


def bin_weights(count: Tensor, bins: int, length: int) -> Tensor:
    """Return the weights of means over `bins` equal parts of `[0, count)`.

    Args:
        count: float (B,), number of cells to divide; 0 gives weights of 0.
        bins: number of parts.
        length: number of all cells, at least `count`.

    Returns: float (B, bins, length), each row summing to 1, 0 from `count` on.
    """
    part = (count / bins)[:, None, None]
    start = part * torch.arange(bins, device=count.device)[:, None]
    cells = torch.arange(length, device=count.device)
    overlap = torch.minimum(cells + 1, start + part) - torch.maximum(cells, start)
    return overlap.clamp(min=0) / part.clamp(min=1 / bins)


class MaskedCBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018): gates per channel, then per pixel.

    Means and maxima are taken over the page only; 0 below the page stays 0.
    """

    def __init__(self, channels: int, reduction: int = 8, kernel: int = 7) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.locate = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Gate (B, C, H, W), 0 below the pages."""
        # The gates are computed in float32: from large maps they, and more so their gradients,
        # exceed the range of fp16, and the sigmoid's gradient makes inf * 0 = nan of it.
        with torch.autocast(x.device.type, enabled=False):
            x = _Gate.apply(x, self._channel_gate(x, rows))
            return _Gate.apply(x, self._pixel_gate(x))

    def _channel_gate(self, x: Tensor, rows: Rows) -> Tensor:
        """Return the channels' gates: (B, C, 1, 1), float32 at least."""
        is_padding = rows.mask[:, :, :, 0] == 0
        pixels = (rows.count * x.shape[3]).clamp(min=1)[:, None]
        mean = (_page_sum(x, rows.mask) / pixels).to(_sum_dtype(x))
        highest = x.amax(dim=3).masked_fill(is_padding, torch.finfo(x.dtype).min).amax(dim=2)
        hidden = torch.relu(self.squeeze(torch.stack([mean, widened(highest)])))
        return torch.sigmoid(self.excite(hidden).sum(dim=0))[:, :, None, None]

    def _pixel_gate(self, x: Tensor) -> Tensor:
        """Return the pixels' gates: (B, 1, H, W), float32 at least."""
        mean = x.mean(dim=1, keepdim=True, dtype=_sum_dtype(x))
        highest = widened(x.amax(dim=1, keepdim=True))
        return torch.sigmoid(self.locate(torch.cat([mean, highest], dim=1)))


class _Gate(torch.autograd.Function):
    """Product of maps and gates that broadcast; the gates' gradient is summed in float32.

    The product has the maps' dtype, the gates' gradient that of the gates. Autograd would multiply
    gradient and map in half precision, which overflows or loses small values, before it sums them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, gate)
        return x * gate.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, gate = ctx.saved_tensors
        grad_gate = (widened(grad) * x).sum_to_size(gate.shape)
        return (grad * gate).to(x.dtype), grad_gate.to(gate.dtype)


def _sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of sums over `x`: float32 for half precision, else that of `x`."""
    return torch.float32 if x.itemsize < 4 else x.dtype
