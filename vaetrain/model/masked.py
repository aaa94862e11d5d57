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
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vaetrain.model.full_precision import widened

GROUPS = 8  # of a norm, if the channels are divisible by it
FLOOR = 1e30  # above all values of maps; finite, for pages without rows
CONTIGUOUS = torch.contiguous_format


class Rows(NamedTuple):
    """Valid rows of feature maps (B, C, H, W), and factors that layers derive from them.

    The ratio of a page is H / (rows on the page), or the image's height for a page without rows.

    Attributes:
        mask: float32 (B, 1, H, 1), 1 on the page, 0 below.
        floor: float32 (B, 1, H, 1), 0 on the page, `-FLOOR` below.
        ratio: float32 (B, 1, 1, 1): a mean over a map that is 0 below the page, times the ratio, is
            the mean over the page.
        share: `mask * ratio`, float32 (B, 1, H, 1).
        inward: `1 - mask * ratio ** 0.5`, of the same shape.
        unspread: `mask * ratio ** -0.5`, of the same shape.
    """

    mask: Tensor
    floor: Tensor
    ratio: Tensor
    share: Tensor
    inward: Tensor
    unspread: Tensor

    @property
    def count(self) -> Tensor:
        """Rows on the page, 0 to H: float32 (B,)."""
        return self.mask.sum(dim=(1, 2, 3))


def rows_at_strides(heights: Tensor, height: int, strides: Sequence[int]) -> list[Rows]:
    """Return the rows that hold a pixel of the page, of a map at each stride of the image.

    All are views of a few tensors, so that more strides cost hardly more operations.

    Args:
        heights: Long (B,), rows of each page in the image.
        height: rows of the image, a multiple of the strides.
        strides: image pixels per row of each map.
    """
    on_page = torch.arange(height, device=heights.device) < heights[:, None]
    mask = on_page.float()[None, :, None, :, None]
    # A row of a map holds a pixel of the page if its first row of pixels does.
    filled = torch.stack([mask[0, :, 0, ::stride, 0].mean(dim=1) for stride in strides])
    ratio = filled.clamp(min=1 / height).reciprocal()[:, :, None, None, None]
    root = ratio.sqrt()
    of_rows = mask * ratio, 1 - mask * root, mask / root
    shared = mask[0], (mask[0] - 1) * FLOOR
    return [
        Rows(
            *(each[:, :, ::stride] for each in shared),
            ratio[index],
            *(each[index, :, :, ::stride] for each in of_rows),
        )
        for index, stride in enumerate(strides)
    ]


def rows_at(heights: Tensor, height: int, stride: int = 1) -> Rows:
    """Return the rows of a map, at a stride of the image, that hold a pixel of the page.

    Args:
        heights: Long (B,), rows of each page in the image.
        height: rows of the map.
        stride: image pixels per row of the map.
    """
    return rows_at_strides(heights, height * stride, [stride])[0]


def keep(x: Tensor, rows: Rows) -> Tensor:
    """Set `x` (B, C, H, W) to 0 below the pages."""
    return x * rows.mask.to(x.dtype)


class MaskedGroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) with moments over the page only; 0 below the page.

    There are `GROUPS` groups, or the greatest common divisor of `GROUPS` and the channels. Moments
    are computed in float32 at least, in two passes, so that a large mean does not cancel the
    variance; the output has the input's dtype. `scale` is the initial weight: with 0 the layers
    before the norm contribute nothing at first.
    """

    def __init__(self, channels: int, scale: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = math.gcd(GROUPS, channels)
        self.eps = eps
        self.weight = nn.Parameter(torch.full((channels,), scale))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Normalise (B, C, H, W); values of `x` below the pages are ignored."""
        return _GroupNorm.apply(x, self.weight, self.bias, self.groups, self.eps, *rows)


class _GroupNorm(torch.autograd.Function):
    """Masked group norm by torch's kernels for maps without a mask, and its gradient.

    Let a page fill n of the N rows of a map. Move its values away from their mean by the factor
    sqrt(N / n), and set the rest of the map to the mean. Over all N rows, mean and variance are
    then those of the page, so torch's norm of this map, with differences from the bias times
    sqrt(n / N), is the norm of the page. `lerp` does either in one pass.

    In the backward pass the gradient is 0 below the page, so torch's sums are those of the page,
    and its gradients of weight and bias are right. The gradient of a pixel is the scaled gradient
    of the output minus means over all pixels; torch divides these by N where n is right. The
    difference from the scaled gradient is therefore multiplied by N / n.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        *row_tensors: Tensor,
    ) -> Tensor:
        rows = Rows(*row_tensors)
        grouped = x.unflatten(1, (groups, -1))
        # Along the width first, so that the mask multiplies rows, not pixels.
        row_means = grouped.mean(dim=4, keepdim=True, dtype=sum_dtype(x))
        mean = row_means.mul_(rows.share[:, None]).mean(dim=(2, 3), keepdim=True)
        spread = _for_torch(
            torch.lerp(widened(grouped), mean, rows.inward[:, None].to(mean.dtype)).flatten(1, 2)
        )
        weight = weight.to(spread.dtype)
        size = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3], groups)
        normed, _, rstd = torch.native_group_norm(spread, weight, bias.to(weight.dtype), *size, eps)
        ctx.save_for_backward(x, weight, mean.view_as(rstd), rstd, rows.mask, rows.share)
        ctx.size, ctx.format = size, _memory_format(x)
        normed = torch.lerp(
            bias[:, None, None] * rows.mask.to(normed.dtype), normed, rows.unspread.to(normed.dtype)
        )
        return normed.to(x.dtype, memory_format=ctx.format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, mask, share = ctx.saved_tensors
        dtype = x.dtype
        # Products of gradients and maps in half precision overflow, or lose small values.
        x = _for_torch(widened(x))
        grad = (widened(grad) * mask).contiguous(memory_format=_memory_format(x))
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_group_norm_backward(
            grad, x, mean, rstd, weight, *ctx.size, [True] * 3
        )
        scale = rstd[:, :, None] * weight.view(rstd.shape[1], -1)
        grad.mul_(scale.view(*grad.shape[:2], 1, 1))
        grad_x = torch.lerp(grad, grad_x, share.to(grad.dtype))
        grad_x = grad_x.to(dtype, memory_format=ctx.format)
        return grad_x, grad_weight, grad_bias, None, None, *(None for _ in Rows._fields)


def _for_torch(x: Tensor) -> Tensor:
    """Return a map in a memory format that torch's norms accept; on GPUs that is NCHW alone."""
    return x.contiguous(memory_format=_memory_format(x) if x.device.type == "cpu" else CONTIGUOUS)


def _memory_format(x: Tensor) -> torch.memory_format:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last and not x.is_contiguous() else CONTIGUOUS


class PyramidPool(nn.Module):
    """Spatial pyramid pooling (He et al. 2014): means over n x n bins for each level n.

    Bins divide each page's own rows, and the width, evenly. A row or column on the border of two
    bins counts in each by its share, so a page may have fewer rows than bins. The pooling consists
    of matrix products, because adaptive pooling to a grid that does not divide a dynamic size
    cannot be exported to ONNX.
    """

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.bins = sum(level * level for level in levels)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Pool (B, C, H, W) to float32 (B, C * bins)."""
        x = widened(x)
        height, width = x.shape[2:]
        # The weights of both axes in one computation: the last line is the width.
        counts = torch.cat([rows.count, rows.count.new_full((1,), width)])
        weights = bin_weights(counts, self.levels, height + width).to(x.dtype)
        down, across = weights[:-1, :, :height], weights[-1, :, :width]
        with torch.autocast(x.device.type, enabled=False):
            # All levels along the width at once, then each level along the height.
            columns = (x @ across.T).split(self.levels, dim=3)
            pooled = [
                torch.einsum("bnh,bchm->bcnm", of_level, level).flatten(1)
                for of_level, level in zip(down.split(self.levels, dim=1), columns, strict=True)
            ]
        return torch.cat(pooled, dim=1)


def bin_weights(count: Tensor, levels: Sequence[int], length: int) -> Tensor:
    """Return the weights of means over equal parts of `[0, count)`.

    Args:
        count: float (B,), number of cells to divide; 0 gives weights of 0.
        levels: numbers of parts.
        length: number of all cells, at least `count`.

    Returns: float (B, sum of levels, length), each row summing to 1, 0 from `count` on.
    """
    device = count.device
    starts = [torch.linspace(0, 1 - 1 / bins, bins, device=device) for bins in levels]
    shares = [torch.full((bins,), 1 / bins, device=device) for bins in levels]
    start = (count[:, None] * torch.cat(starts))[:, :, None]
    part = (count[:, None] * torch.cat(shares))[:, :, None]
    cells = torch.arange(length, device=device)
    overlap = torch.minimum(cells + 1, start + part).sub_(torch.maximum(cells, start))
    return overlap.clamp_(min=0).div_(part.clamp(min=1 / max(levels)))


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of sums over `x`: float32 for half precision, else that of `x`."""
    return torch.float32 if x.itemsize < 4 else x.dtype
