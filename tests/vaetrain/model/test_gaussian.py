"""A posterior's Gaussian: the bound of its log variance and its draws."""

import torch
from torch.distributions import Normal

from vaetrain.model.gaussian import LOGVAR_BOUND, bounded, reparameterized, unbounded


def test_a_draw_is_the_quantile_that_its_noise_is_of_a_standard_normal():
    mu, logvar, eps = torch.randn(3, 64, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    standard = Normal(torch.zeros_like(mu), torch.ones_like(mu)).cdf(eps)
    expected = Normal(mu, logvar.exp().sqrt()).icdf(standard)
    torch.testing.assert_close(reparameterized(mu, logvar, eps), expected)


def test_a_log_variance_is_bounded_smoothly_and_what_makes_one_is_known():
    wild = torch.tensor([-1e6, -30.0, 0.0, 30.0, 1e6], requires_grad=True)
    found = bounded(wild)
    assert found.abs().max() <= LOGVAR_BOUND
    assert found[2] == 0
    (slope,) = torch.autograd.grad(found[2], wild)
    assert slope[2] == 1
    for value in (-7.5, 0.0, 3.0):
        assert abs(bounded(torch.tensor(unbounded(value))).item() - value) < 1e-5
