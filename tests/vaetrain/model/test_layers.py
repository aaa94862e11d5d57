"""Convolutions with a page equal those of enlarged maps and page in one tensor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vaetrain.model.layers import Conv2d, EqualLinear, fit_rows, four_pixels
from vaetrain.model.masked import keep, rows_at


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_four_pixels_are_a_pixel_shuffle(channels, layout):
    x = torch.randn(2, 4 * channels, 5, 3).contiguous(memory_format=layout)
    assert torch.equal(four_pixels(x), F.pixel_shuffle(x, 2))


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_with_a_page_equals_that_of_one_tensor(kernel):
    torch.manual_seed(0)
    heights = torch.tensor([8, 5, 1] if kernel == 1 else [8, 6, 2])  # odd heights: the next test
    half, whole = rows_at(heights, 4, 2), rows_at(heights, 8)
    layer = Conv2d(6, 4, kernel, padding=kernel // 2)
    maps = keep(torch.randn(3, 5, 4, 3), half).requires_grad_()
    page = keep(torch.randn(3, 1, 8, 6), whole).requires_grad_()
    leaves = [maps, page, *layer.parameters()]
    large = keep(F.interpolate(maps, scale_factor=2), whole)
    together = torch.cat([large, page], dim=1)
    expected = F.conv2d(together, layer.weight, layer.bias, padding=kernel // 2)
    result = layer(maps, page, whole)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    upstream = keep(torch.randn_like(expected), whole)  # a norm's gradient is 0 below the page
    gradients, references = (
        list(torch.autograd.grad(y, leaves, upstream)) for y in (result, expected)
    )
    gradients[0] = keep(gradients[0], half)  # the padding of the maps is not used
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_page_of_odd_height_has_the_same_result_in_a_padded_batch(kernel):
    """Test a page whose last row is half a row of the maps."""
    torch.manual_seed(0)
    layer = Conv2d(6, 4, kernel, padding=kernel // 2)
    maps, page = torch.randn(1, 5, 3, 3), torch.randn(1, 1, 6, 6)
    height = torch.tensor([5])
    page = keep(page, rows_at(height, 6))
    alone = layer(maps, page, rows_at(height, 6))
    maps, page = F.pad(maps, (0, 0, 0, 4)), F.pad(page, (0, 0, 0, 8))
    in_batch = layer(maps, page, rows_at(height, 14))
    torch.testing.assert_close(in_batch[:, :, :5], alone[:, :, :5], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_a_strided_convolution_equals_torchs(kernel, stride):
    layer = Conv2d(3, 4, kernel, stride, kernel // 2)
    x = torch.randn(2, 3, 8, 6)
    expected = F.conv2d(x, layer.weight, layer.bias, stride, kernel // 2)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


def test_equal_linear_has_the_initial_scale_of_linear():
    torch.manual_seed(0)
    layer = EqualLinear(400, 300)
    effective = layer.scale * layer.weight
    assert layer.scale == 1 / 20
    assert effective.abs().max() <= 1 / 20
    torch.testing.assert_close(effective.std(), torch.tensor(1 / 20 / 3**0.5), rtol=0.02, atol=0)
    x = torch.randn(2, 400)
    expected = F.linear(x, effective, layer.scale * layer.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height", [3, 5, 8])
def test_fit_rows_cuts_or_pads_with_zeros(height):
    x = torch.rand(1, 2, 5, 4)
    fitted = fit_rows(x, height)
    assert fitted.shape == (1, 2, height, 4)
    assert torch.equal(fitted[:, :, :5], x[:, :, :height])
    assert (fitted[:, :, 5:] == 0).all()
