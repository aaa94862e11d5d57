"""Masked layers: a page in a padded batch has the results of the page alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.masked import (
    MaskedGroupNorm,
    PyramidPool,
    bin_weights,
    keep,
    rows_at,
    rows_at_strides,
)

HEIGHTS = torch.tensor([1, 5, 16, 9])


def noise(*shape: int, offset: float = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) + offset


def randomised(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return layer


def test_rows_at_a_stride_are_those_with_a_pixel_of_the_page():
    rows = rows_at(torch.tensor([1, 4, 5, 16]), 4, stride=4)
    assert rows.count.tolist() == [1, 1, 2, 4]
    assert rows.mask.sum(dim=(1, 2, 3)).tolist() == [1, 1, 2, 4]
    assert rows.mask[2, 0, :, 0].tolist() == [1, 1, 0, 0]


def test_rows_at_several_strides_are_those_at_each():
    several = rows_at_strides(HEIGHTS, 16, (1, 2, 16))
    for stride, rows in zip((1, 2, 16), several, strict=True):
        for own, expected in zip(rows, rows_at(HEIGHTS, 16 // stride, stride), strict=True):
            torch.testing.assert_close(own, expected, rtol=0, atol=0)


def test_a_mean_over_the_map_times_the_ratio_is_the_mean_over_the_page():
    rows = rows_at(HEIGHTS, 16)
    x = keep(noise(4, 1, 16, 4), rows)
    expected = [page[:, :height].mean() for page, height in zip(x, HEIGHTS, strict=True)]
    torch.testing.assert_close(
        (x.mean(dim=2, keepdim=True) * rows.ratio).mean(dim=(1, 2, 3)), torch.stack(expected)
    )


def test_rows_never_exceed_the_map():
    assert rows_at(torch.tensor([40]), 16).count.tolist() == [16]


@pytest.mark.parametrize("layer", [MaskedGroupNorm(12), MaskedCBAM(12), PyramidPool([1, 2, 3, 5])])
def test_a_page_in_a_padded_batch_equals_the_cropped_page(layer: nn.Module):
    randomised(layer)
    rows = rows_at(HEIGHTS, 16)
    x = keep(noise(4, 12, 16, 8), rows)
    batched = layer(x, rows)
    for i, height in enumerate(HEIGHTS.tolist()):
        page = x[i : i + 1, :, :height]
        alone = layer(page, rows_at(HEIGHTS[i : i + 1], height))
        in_batch = batched[i : i + 1]
        if in_batch.dim() == 4:
            assert not in_batch[:, :, height:].any()
            in_batch = in_batch[:, :, :height]
        torch.testing.assert_close(in_batch, alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 7, 12, 33, 64])
def test_norm_of_unpadded_pages_equals_torchs(channels: int):
    layer = randomised(MaskedGroupNorm(channels))
    x = noise(3, channels, 6, 4)
    expected = F.group_norm(x, layer.groups, layer.weight, layer.bias, layer.eps)
    torch.testing.assert_close(layer(x, rows_at(torch.tensor([6, 6, 6]), 6)), expected)


def test_norm_ignores_the_padding():
    layer, rows = randomised(MaskedGroupNorm(8)), rows_at(HEIGHTS, 16)
    x = noise(4, 8, 16, 4)
    torch.testing.assert_close(layer(x, rows), layer(keep(x, rows), rows))


def test_norm_gradients_equal_those_of_torch_on_cropped_pages():
    rows = rows_at(HEIGHTS, 16)
    layer = randomised(MaskedGroupNorm(8)).double()
    x = noise(4, 8, 16, 4, offset=1.0).double().requires_grad_()

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        pages = []
        for page, height in zip(x, HEIGHTS.tolist(), strict=True):
            normed = F.group_norm(page[None, :, :height], layer.groups, weight, bias, layer.eps)
            pages.append(F.pad(normed, (0, 0, 0, 16 - height)))
        return torch.cat(pages)

    inputs = (x, layer.weight, layer.bias)
    upstream = noise(4, 8, 16, 4).double()
    expected = torch.autograd.grad(plain(*inputs), inputs, upstream)
    # The tolerance is that of rows' factors in float32.
    gradients = torch.autograd.grad(layer(x, rows), inputs, upstream)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-6)


def test_norm_is_accurate_for_a_mean_far_above_the_deviation():
    rows = rows_at(HEIGHTS, 16)
    x = keep(noise(4, 8, 16, 4, offset=3000.0), rows)
    result = MaskedGroupNorm(8)(x, rows)
    expected = F.group_norm(x[1:2, :, :5].double(), 8, eps=1e-5)
    torch.testing.assert_close(result[1:2, :, :5].double(), expected, atol=2e-3, rtol=1e-3)


def test_norm_under_autocast_keeps_dtype_and_float32_moments():
    rows = rows_at(HEIGHTS, 16)
    x = keep(noise(4, 8, 16, 4, offset=2.0), rows).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = MaskedGroupNorm(8)(x, rows)
    assert result.dtype == torch.bfloat16
    result.float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    expected = MaskedGroupNorm(8)(x.detach().float(), rows)
    torch.testing.assert_close(result.float(), expected, atol=0.02, rtol=0.02)


def test_a_page_without_rows_gives_zeros():
    rows = rows_at(torch.tensor([0]), 4)
    x = torch.zeros(1, 8, 4, 4, requires_grad=True)
    result = MaskedGroupNorm(8)(x, rows)
    result.sum().backward()
    assert torch.equal(result, torch.zeros_like(result))
    assert torch.isfinite(x.grad).all()
    assert torch.equal(PyramidPool([2])(x, rows), torch.zeros(1, 32))


def test_a_norm_of_scale_zero_outputs_zeros():
    result = MaskedGroupNorm(8, scale=0.0)(noise(4, 8, 16, 4), rows_at(HEIGHTS, 16))
    assert torch.equal(result, torch.zeros_like(result))


def test_bins_weight_cells_by_their_overlap():
    weights = bin_weights(torch.tensor([3.0, 1.0]), [2], 4)
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 1 / 3, 2 / 3, 0]])
    torch.testing.assert_close(weights[0], expected)
    torch.testing.assert_close(weights[1], torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]))


def test_pyramid_equals_adaptive_pooling_if_bins_divide_the_page():
    x = noise(2, 3, 8, 8)
    pool = PyramidPool([1, 2, 4])
    result = pool(x, rows_at(torch.tensor([8, 8]), 8))
    expected = [F.adaptive_avg_pool2d(x, level).flatten(1) for level in (1, 2, 4)]
    assert pool.bins == 21
    torch.testing.assert_close(result, torch.cat(expected, dim=1))


@pytest.mark.parametrize("layer", [MaskedGroupNorm(8), MaskedCBAM(8)])
def test_channels_last_is_kept(layer: nn.Module):
    x = noise(2, 8, 6, 4).contiguous(memory_format=torch.channels_last)
    result = layer(x, rows_at(torch.tensor([6, 6]), 6))
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, layer(x.contiguous(), rows_at(torch.tensor([6, 6]), 6)))
