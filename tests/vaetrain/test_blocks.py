"""Convolutions beside a page are those of the enlarged maps and the page in one tensor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vaetrain.blocks import Conv2d, enlarge
from vaetrain.masked import keep, rows_at


@pytest.mark.parametrize("kernel", [1, 3])
def test_maps_beside_a_page(kernel):
    torch.manual_seed(0)
    heights = torch.tensor([8, 5, 1])
    half, whole = rows_at(heights, 4, 2), rows_at(heights, 8)
    layer = Conv2d(6, 4, kernel, padding=kernel // 2)
    maps = keep(torch.randn(3, 5, 4, 3), half).requires_grad_()
    page = keep(torch.randn(3, 1, 8, 6), whole).requires_grad_()
    leaves = [maps, page, *layer.parameters()]
    together = torch.cat([enlarge(maps, whole, 2), page], dim=1)
    expected = F.conv2d(together, layer.weight, layer.bias, padding=kernel // 2)
    found = layer(maps, page, whole)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    down = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, leaves, down)
    for ours, theirs in zip(torch.autograd.grad(found, leaves, down), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_a_stride(kernel, stride):
    layer = Conv2d(3, 4, kernel, stride, kernel // 2)
    x = torch.randn(2, 3, 8, 6)
    expected = F.conv2d(x, layer.weight, layer.bias, stride, kernel // 2)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)
