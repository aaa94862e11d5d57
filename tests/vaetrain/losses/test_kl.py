"""KL per page and dimension, and its reduction to a loss."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vaetrain.losses.config import BetaConfig
from vaetrain.losses.kl import kl_loss, kl_per_page_and_dimension
from vaetrain.model.vae import VAEOutput

HEIGHTS, WIDTH = torch.tensor([20, 30]), 32


@pytest.fixture
def kl() -> torch.Tensor:
    return 2 * torch.rand(2, 5, generator=torch.Generator().manual_seed(0))


def test_spatial_latents_are_summed_per_channel_and_ladder_levels_are_appended():
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 2, 5, 3, 4, generator=generator).unbind()
    ladder = torch.rand(2, 3, generator=generator)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=(2, 3))
    result = kl_per_page_and_dimension(VAEOutput(mu, mu, logvar, ladder, mu))
    torch.testing.assert_close(result, torch.cat([expected, ladder], dim=1))


@pytest.mark.parametrize(
    ("reduction", "factor"), [("sum", 1.0), ("mean", 1 / 5), ("pixel", 1 / (WIDTH * HEIGHTS))]
)
def test_reductions(kl, reduction, factor):
    loss = kl_loss(kl, BetaConfig(reduction=reduction), None, HEIGHTS, WIDTH)
    torch.testing.assert_close(loss, kl.sum(dim=1) * factor)


def test_free_bits_are_a_minimum_without_gradient(kl):
    kl.requires_grad_()
    loss = kl_loss(kl, BetaConfig(free_bits=0.8, reduction="sum"), None, HEIGHTS, WIDTH)
    torch.testing.assert_close(loss, kl.clamp(min=0.8).sum(dim=1))
    loss.sum().backward()
    assert torch.equal(kl.grad, (kl > 0.8).float())


@pytest.mark.parametrize("capacity", [0.0, 3.0, 1000.0])
def test_a_capacity_is_approached_from_either_side(kl, capacity):
    loss = kl_loss(kl, BetaConfig(reduction="sum"), capacity, HEIGHTS, WIDTH)
    torch.testing.assert_close(loss, (kl.sum(dim=1) - capacity).abs())


def test_the_levels_of_a_ladder_have_a_price_of_their_own(kl):
    config = BetaConfig(reduction="sum")
    loss = kl_loss(kl, config, None, HEIGHTS, WIDTH, levels=2, factor=0.25)
    torch.testing.assert_close(loss, kl[:, :3].sum(dim=1) + 0.25 * kl[:, 3:].sum(dim=1))
