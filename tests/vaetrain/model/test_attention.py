"""Attention over the page only: maxima, gradients, pages without rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.masked import keep, rows_at


def noise(*shape: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) + offset


def cbam(channels: int, kernel: int = 7) -> MaskedCBAM:
    layer, generator = MaskedCBAM(channels, kernel=kernel), torch.Generator().manual_seed(2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return layer.double()


def test_the_padding_is_excluded_from_maxima():
    layer, rows = cbam(8), rows_at(torch.tensor([3]), 6)
    x = keep(noise(1, 8, 6, 4, offset=-9.0), rows)  # below 0, so a maximum over the padding is 0
    alone = layer(x[:, :, :3], rows_at(torch.tensor([3]), 3))
    torch.testing.assert_close(layer(x, rows)[:, :, :3], alone)


def test_gradients_equal_finite_differences():
    layer, rows = cbam(4, kernel=3), rows_at(torch.tensor([5, 3]), 5)
    names = [name for name, _ in layer.named_parameters()]

    def gated(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        x = keep(x, rows)
        return keep(torch.func.functional_call(layer, given, (x, rows)), rows)

    x = noise(2, 4, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(gated, (x, *layer.parameters()))


def test_equal_maxima_share_their_gradient():
    """As in `Tensor.amax`; the padding, which is 0 as the whole page is, gets none of it."""
    layer = cbam(8)
    gradients = []
    for height in (3, 6):
        x = torch.zeros(1, 8, height, 4, dtype=torch.float64)
        x[:, :4, :3] = 1
        x.requires_grad_()
        layer(x, rows_at(torch.tensor([3]), height)).square().sum().backward()
        gradients.append(x.grad[:, :, :3])
    torch.testing.assert_close(*gradients)


def test_a_page_without_rows_stays_finite():
    layer, x = cbam(8).float(), torch.zeros(1, 8, 4, 4, requires_grad=True)
    result = layer(x, rows_at(torch.tensor([0]), 4))
    result.sum().backward()
    assert torch.equal(result, torch.zeros_like(result))
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
