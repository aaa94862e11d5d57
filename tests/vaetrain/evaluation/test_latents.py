"""Latent statistics, compared with scipy, numpy and explicit sums."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from vaetrain.evaluation import latents
from vaetrain.model.gaussian import gaussian_kl

N, D = 60, 7


@pytest.fixture
def posteriors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([2.0, 1, 0.8, 0.5, 0.3, 0.05, 0.0], dtype=torch.float64)
    mix = torch.eye(D, dtype=torch.float64)
    mix[0, 1] = 0.7  # dimensions 0 and 1 are correlated
    mu = torch.randn(N, D, generator=generator, dtype=torch.float64) @ mix * scale + 0.1
    logvar = -1 + 0.5 * torch.randn(N, D, generator=generator, dtype=torch.float64)
    return mu, logvar


def statistics(mu: torch.Tensor, logvar: torch.Tensor) -> latents.LatentStatistics:
    return latents.LatentStatistics.from_pages(mu, logvar, gaussian_kl(mu, logvar))


def test_means_and_deviations(posteriors):
    mu, logvar = posteriors
    metrics = latents.latent_metrics(statistics(mu, logvar))
    m, v = mu.numpy(), logvar.exp().numpy()
    deviation = m.std(axis=0, ddof=1)
    assert metrics["active_units"] == (deviation**2 > 0.01).sum() == 5
    assert metrics["active_units_of"] == len(deviation)
    assert metrics["latent_mean_abs"] == pytest.approx(np.abs(m.mean(axis=0)).mean())
    assert metrics["latent_std_mean"] == pytest.approx(deviation.mean())
    assert metrics["latent_std_min"] == pytest.approx(deviation.min())
    assert metrics["latent_std_max"] == pytest.approx(deviation.max())
    assert metrics["latent_variance_mean"] == pytest.approx((deviation**2).mean())
    assert metrics["posterior_std_mean"] == pytest.approx(np.sqrt(v).mean())


def test_mean_kl_per_dimension(posteriors):
    mu, logvar = posteriors
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mu, (logvar / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(statistics(mu, logvar).kl, kl.mean(dim=0))


def test_aggregate_kl_is_that_of_the_gaussian_with_the_same_moments(posteriors):
    mu, logvar = posteriors
    covariance = np.cov(mu.numpy().T, ddof=0) + np.diag(logvar.exp().mean(dim=0).numpy())
    normal = torch.distributions.MultivariateNormal
    matched = normal(mu.mean(dim=0), torch.from_numpy(covariance))
    prior = normal(torch.zeros(D).double(), torch.eye(D).double())
    expected = torch.distributions.kl_divergence(matched, prior).item()
    assert latents.aggregate_kl(statistics(mu, logvar)) == pytest.approx(expected)
    zeros = torch.zeros(N, D).double()
    assert latents.aggregate_kl(statistics(zeros, zeros)) == pytest.approx(0, abs=1e-12)
    # A lower bound of the mixture's KL, which is estimated from samples.
    z = latents.posterior_samples(torch.arange(N), mu, logvar)
    density = scipy.stats.norm(mu.numpy(), np.exp(logvar.numpy() / 2)).logpdf(z.numpy()[:, None, :])
    mixture = scipy.special.logsumexp(density.sum(axis=2), axis=1) - math.log(N)
    sampled = (mixture - scipy.stats.norm.logpdf(z.numpy()).sum(axis=1)).mean()
    assert latents.aggregate_kl(statistics(mu, logvar)) < sampled


def test_correlation_is_the_mean_over_pairs_of_active_dimensions(posteriors):
    mu, _ = posteriors
    table = np.corrcoef(mu.numpy()[:, :5].T)
    expected = np.abs(table[~np.eye(5, dtype=bool)]).mean()
    matrix = latents.correlation(mu)
    assert latents.off_diagonal_mean(matrix) == pytest.approx(expected)
    assert matrix.shape == (5, 5)
    assert matrix.diagonal().numpy() == pytest.approx(np.ones(5))
    assert matrix[0, 1].abs().item() == pytest.approx(abs(table[0, 1]))


@pytest.mark.parametrize("active", [0, 1])
def test_too_few_dimensions_have_no_correlation(active):
    mu = torch.zeros(20, 4)
    mu[:, :active] = torch.arange(20.0)[:, None]
    assert latents.correlation(mu).shape == (active, active)
    assert math.isnan(latents.off_diagonal_mean(latents.correlation(mu)))


def effective_rank(mu: torch.Tensor) -> float:
    return latents.effective_rank(statistics(mu, torch.zeros_like(mu)).covariance)


def test_effective_rank(posteriors):
    mu, _ = posteriors
    singular = np.linalg.svd(mu.numpy() - mu.numpy().mean(axis=0), compute_uv=False) ** 2
    expected = math.exp(scipy.stats.entropy(singular / singular.sum()))
    assert effective_rank(mu) == pytest.approx(expected)
    assert math.isnan(effective_rank(torch.zeros(5, 3)))
    cross = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(cross) == pytest.approx(4)


def test_mutual_information(posteriors, monkeypatch):
    mu, logvar = posteriors
    z = latents.posterior_samples(torch.arange(N), mu, logvar)
    means, deviations = mu.numpy(), np.exp(logvar.numpy() / 2)
    total = 0.0
    for i in range(N):
        density = scipy.stats.norm(means, deviations).logpdf(z[i].numpy()).sum(axis=1)
        total += density[i] - math.log(np.exp(density).mean())
    assert latents.mutual_information(mu, logvar, z) == pytest.approx(total / N)
    monkeypatch.setattr(latents, "CHUNK", 13)  # does not divide the pages
    assert latents.mutual_information(mu, logvar, z) == pytest.approx(total / N)


def test_mutual_information_of_distinct_and_of_equal_posteriors():
    ids = torch.arange(50)
    far = torch.eye(50).double() * 1000
    small = torch.full_like(far, -5)
    z = latents.posterior_samples(ids, far, small)
    assert latents.mutual_information(far, small, z) == pytest.approx(math.log(50))
    same = torch.zeros(50, 4).double()
    z = latents.posterior_samples(ids, same, same)
    assert latents.mutual_information(same, same, z) == pytest.approx(0, abs=1e-12)


def test_noise_depends_on_the_sample_id(posteriors):
    mu, logvar = posteriors
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    z = latents.posterior_samples(torch.arange(N), mu, logvar)
    shuffled = latents.posterior_samples(order, mu[order], logvar[order])
    torch.testing.assert_close(shuffled, z[order])
    noise = (z - mu) / (logvar / 2).exp()
    assert scipy.stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01


def test_one_page_has_no_variance():
    one = torch.zeros(1, 3)
    metrics = latents.latent_metrics(statistics(one, one))
    assert "active_units" not in metrics
    assert metrics["kl_per_dim_max"] == 0
