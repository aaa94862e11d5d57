"""The masked layers: a page in a padded batch is computed as if it stood alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.masked import (
    MaskedCBAM,
    MaskedGroupNorm,
    PyramidPool,
    bin_weights,
    keep,
    rows_at,
)

HEIGHTS = torch.tensor([1, 5, 16, 9])


def noise(*shape: int, offset: float = 0.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) + offset


def randomised(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return layer


def test_rows_at_a_stride_hold_at_least_one_pixel_of_the_page():
    rows = rows_at(torch.tensor([1, 4, 5, 16]), 4, stride=4)
    assert rows.count.tolist() == [1, 1, 2, 4]
    assert rows.mask.sum(dim=(1, 2, 3)).tolist() == [1, 1, 2, 4]
    assert rows.mask[2, 0, :, 0].tolist() == [1, 1, 0, 0]


def test_rows_never_exceed_the_map():
    assert rows_at(torch.tensor([40]), 16).count.tolist() == [16]


@pytest.mark.parametrize("layer", [MaskedGroupNorm(12), MaskedCBAM(12), PyramidPool([1, 2, 3, 5])])
def test_a_page_in_a_batch_equals_the_page_cropped(layer: nn.Module):
    randomised(layer)
    rows = rows_at(HEIGHTS, 16)
    x = keep(noise(4, 12, 16, 8), rows)
    batched = layer(x, rows)
    for i, height in enumerate(HEIGHTS.tolist()):
        page = x[i : i + 1, :, :height]
        alone = layer(page, rows_at(HEIGHTS[i : i + 1], height))
        mine = batched[i : i + 1]
        if mine.dim() == 4:
            assert torch.equal(mine[:, :, height:], torch.zeros_like(mine[:, :, height:]))
            mine = mine[:, :, :height]
        torch.testing.assert_close(mine, alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 7, 12, 33, 64])
def test_norm_equals_torch_where_nothing_is_masked(channels: int):
    layer = randomised(MaskedGroupNorm(channels))
    x = noise(3, channels, 6, 4)
    expected = F.group_norm(x, layer.groups, layer.weight, layer.bias, layer.eps)
    torch.testing.assert_close(layer(x, rows_at(torch.tensor([6, 6, 6]), 6)), expected)


def test_norm_ignores_what_lies_below_the_page():
    layer, rows = randomised(MaskedGroupNorm(8)), rows_at(HEIGHTS, 16)
    x = noise(4, 8, 16, 4)
    torch.testing.assert_close(layer(x, rows), layer(keep(x, rows), rows))


def test_norm_gradients_equal_those_of_the_plain_formula():
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
    # Row sums are kept in float32, hence the tolerance.
    found = torch.autograd.grad(layer(x, rows), inputs, upstream)
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), reference, atol=2e-5, rtol=1e-5)


def test_norm_is_stable_where_the_mean_dwarfs_the_deviation():
    rows = rows_at(HEIGHTS, 16)
    x = keep(noise(4, 8, 16, 4, offset=3000.0), rows)
    found = MaskedGroupNorm(8)(x, rows)
    expected = F.group_norm(x[1:2, :, :5].double(), 8, eps=1e-5)
    torch.testing.assert_close(found[1:2, :, :5].double(), expected, atol=2e-3, rtol=1e-3)


def test_norm_under_autocast_keeps_dtype_and_float32_moments():
    rows = rows_at(HEIGHTS, 16)
    x = keep(noise(4, 8, 16, 4, offset=2.0), rows).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = MaskedGroupNorm(8)(x, rows)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    expected = MaskedGroupNorm(8)(x.detach().float(), rows)
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


def test_a_page_of_no_rows_gives_zeros_not_nan():
    rows = rows_at(torch.tensor([0]), 4)
    x = torch.zeros(1, 8, 4, 4, requires_grad=True)
    found = MaskedGroupNorm(8)(x, rows)
    found.sum().backward()
    assert torch.equal(found, torch.zeros_like(found))
    assert torch.isfinite(x.grad).all()
    assert torch.equal(PyramidPool([2])(x, rows), torch.zeros(1, 32))


def test_a_zero_scaled_norm_starts_silent():
    found = MaskedGroupNorm(8, scale=0.0)(noise(4, 8, 16, 4), rows_at(HEIGHTS, 16))
    assert torch.equal(found, torch.zeros_like(found))


def test_bins_are_weighed_by_overlap():
    weights = bin_weights(torch.tensor([3.0, 1.0]), 2, 4)
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 1 / 3, 2 / 3, 0]])
    torch.testing.assert_close(weights[0], expected)
    torch.testing.assert_close(weights[1], torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]))


def test_pyramid_equals_adaptive_pooling_where_bins_divide_the_page():
    x = noise(2, 3, 8, 8)
    pool = PyramidPool([1, 2, 4])
    found = pool(x, rows_at(torch.tensor([8, 8]), 8))
    expected = [F.adaptive_avg_pool2d(x, level).flatten(1) for level in (1, 2, 4)]
    assert pool.bins == 21
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


def test_cbam_maximum_does_not_see_the_padding():
    layer = randomised(MaskedCBAM(8))
    rows = rows_at(torch.tensor([3]), 6)
    x = keep(noise(1, 8, 6, 4, offset=-9.0), rows)  # padding's zeros would win every maximum
    alone = layer(x[:, :, :3], rows_at(torch.tensor([3]), 3))
    torch.testing.assert_close(layer(x, rows)[:, :, :3], alone)


@pytest.mark.parametrize("layer", [MaskedGroupNorm(8), MaskedCBAM(8)])
def test_channels_last_is_kept(layer: nn.Module):
    x = noise(2, 8, 6, 4).contiguous(memory_format=torch.channels_last)
    found = layer(x, rows_at(torch.tensor([6, 6]), 6))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, layer(x.contiguous(), rows_at(torch.tensor([6, 6]), 6)))
