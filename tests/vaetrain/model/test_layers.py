"""Convolutions beside a page are those of the enlarged maps and the page in one tensor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vaetrain.model.layers import Conv2d
from vaetrain.model.masked import keep, rows_at


@pytest.mark.parametrize("kernel", [1, 3])
def test_maps_beside_a_page(kernel):
    torch.manual_seed(0)
    heights = torch.tensor([8, 5, 1] if kernel == 1 else [8, 6, 2])  # odd: the next test
    half, whole = rows_at(heights, 4, 2), rows_at(heights, 8)
    layer = Conv2d(6, 4, kernel, padding=kernel // 2)
    maps = keep(torch.randn(3, 5, 4, 3), half).requires_grad_()
    page = keep(torch.randn(3, 1, 8, 6), whole).requires_grad_()
    leaves = [maps, page, *layer.parameters()]
    large = keep(F.interpolate(maps, scale_factor=2), whole)
    together = torch.cat([large, page], dim=1)
    expected = F.conv2d(together, layer.weight, layer.bias, padding=kernel // 2)
    found = layer(maps, page, whole)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    down = keep(torch.randn_like(expected), whole)  # as a norm sends it
    ours, theirs = (list(torch.autograd.grad(y, leaves, down)) for y in (found, expected))
    ours[0] = keep(ours[0], half)  # to what is below a page nothing goes on
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_page_whose_last_row_is_half_a_row_of_the_maps(kernel):
    """Beside taller pages it is what it is alone."""
    torch.manual_seed(0)
    layer = Conv2d(6, 4, kernel, padding=kernel // 2)
    maps, page = torch.randn(1, 5, 3, 3), torch.randn(1, 1, 6, 6)
    height = torch.tensor([5])
    page = keep(page, rows_at(height, 6))
    alone = layer(maps, page, rows_at(height, 6))
    maps, page = F.pad(maps, (0, 0, 0, 4)), F.pad(page, (0, 0, 0, 8))
    beside = layer(maps, page, rows_at(height, 14))
    torch.testing.assert_close(beside[:, :, :5], alone[:, :, :5], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_a_stride(kernel, stride):
    layer = Conv2d(3, 4, kernel, stride, kernel // 2)
    x = torch.randn(2, 3, 8, 6)
    expected = F.conv2d(x, layer.weight, layer.bias, stride, kernel // 2)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)
