"""The Gaussians of posteriors and priors."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vaetrain.model.gaussian import LOGVAR_BOUND, bounded, gaussian_kl, reparameterized, unbounded


def test_a_sample_has_the_quantile_of_its_noise():
    mu, logvar, eps = torch.randn(3, 64, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    quantile = Normal(torch.zeros_like(mu), torch.ones_like(mu)).cdf(eps)
    expected = Normal(mu, logvar.exp().sqrt()).icdf(quantile)
    torch.testing.assert_close(reparameterized(mu, logvar, eps), expected)


def test_log_variances_are_bounded_with_a_gradient_of_one_at_zero():
    extreme = torch.tensor([-1e6, -30.0, 0.0, 30.0, 1e6], requires_grad=True)
    result = bounded(extreme)
    assert result.abs().max() <= LOGVAR_BOUND
    assert result[2] == 0
    (gradient,) = torch.autograd.grad(result[2], extreme)
    assert gradient[2] == 1


@pytest.mark.parametrize("value", [-7.5, 0.0, 3.0])
def test_unbounded_is_the_inverse_of_bounded(value):
    assert bounded(torch.tensor(unbounded(value))).item() == pytest.approx(value, abs=1e-5)


def test_kl_equals_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), prior)
    torch.testing.assert_close(gaussian_kl(mu, logvar), expected)


def test_kl_is_zero_at_the_prior_and_not_negative_near_it():
    assert not gaussian_kl(torch.zeros(3, 4), torch.zeros(3, 4)).any()
    logvar = torch.linspace(-1e-4, 1e-4, 101)
    assert (gaussian_kl(torch.zeros(101), logvar) >= -1e-10).all()
