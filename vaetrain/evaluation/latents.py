"""Statistics of the posteriors of a set of pages, in float64.

`mu` and `logvar` are (N, D): the posteriors of N pages, identical to the bit on every rank.
Information and KL are in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shards.randomness import normal, sample_keys
from vaetrain.model import gaussian
from vaetrain.model.gaussian import reparameterized

ACTIVE_VARIANCE = 0.01  # of mu over the data (Burda et al. 2016, section 5.3)
CHUNK = 1024  # pages compared with all others at once, which bounds the memory


def latent_metrics(ids: Tensor, mu: Tensor, logvar: Tensor) -> dict[str, float]:
    """Return all scalar statistics by the names they are logged under.

    Args:
        ids: Long (N,), sample ids, which determine the noise of posterior samples.
        mu, logvar: (N, D).

    Returns: for one page, which has no variance, only three of them.
    """
    mu, logvar = mu.double(), logvar.double()
    metrics = {
        "kl_per_dim_max": mean_kl_per_dimension(mu, logvar).max().item(),
        "latent_mean_abs": mu.mean(dim=0).abs().mean().item(),
        "posterior_std_mean": (logvar / 2).exp().mean().item(),
    }
    if len(mu) < 2:
        return metrics
    deviation = mu.std(dim=0)
    return metrics | {
        "active_units": int(is_active(mu).sum()),
        "latent_std_mean": deviation.mean().item(),
        "latent_std_min": deviation.min().item(),
        "latent_std_max": deviation.max().item(),
        "latent_variance_mean": deviation.square().mean().item(),
        "aggregate_kl": aggregate_kl(mu, logvar),
        "latent_correlation": off_diagonal_correlation(mu),
        "effective_rank": effective_rank(mu),
        "mutual_information": mutual_information(mu, logvar, posterior_samples(ids, mu, logvar)),
    }


def mean_kl_per_dimension(mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute the KL of each dimension from N(0, 1), mean over pages, in nats: (D,)."""
    return gaussian.gaussian_kl(mu.double(), logvar.double()).mean(dim=0)


def is_active(mu: Tensor) -> Tensor:
    """Return a mask of the active units: bool (D,) (Burda et al. 2016, section 5.3).

    A dimension is active if its `mu` has a variance over 0.01 over the pages (N - 1 in the
    denominator).
    """
    return mu.double().var(dim=0) > ACTIVE_VARIANCE


def in_posterior_stds(mu: Tensor, logvar: Tensor) -> Tensor:
    """Scale `mu` (N, D) to units of each dimension's mean posterior standard deviation, float64.

    Args:
        logvar: (M, D), posteriors of the pages that the units are computed from.

    Posteriors are narrow in dimensions that change a page much. Raw `mu` has the prior's unit in
    every dimension, like whitened principal components, so that many small details dominate
    distances.
    """
    return mu.double() / (logvar.double() / 2).exp().mean(dim=0)


def aggregate_kl(mu: Tensor, logvar: Tensor) -> float:
    """Compute the KL from N(0, I) of the Gaussian with the aggregated posterior's moments, in nats.

    The aggregated posterior (Makhzani et al. 2015, section 2) is the mean of the pages' posteriors.
    Its covariance is that of `mu` (N in the denominator) plus the mean variance on the diagonal.
    A Gaussian has the largest entropy for given moments, so this is a lower bound of the aggregated
    posterior's KL. Unlike a sampled estimate it does not depend on N through log N.
    """
    mean = mu.mean(dim=0)
    covariance = _covariance(mu) + torch.diag(logvar.exp().mean(dim=0))
    spread = covariance.trace() - torch.logdet(covariance)
    return (0.5 * (spread + mean.square().sum() - mu.shape[1])).item()


def correlation(mu: Tensor) -> Tensor:
    """Compute the Pearson correlation of the active dimensions: (A, A), A may be 0.

    Dimensions are in descending order of their variance.
    """
    variance = mu.double().var(dim=0)
    order = variance.argsort(descending=True)
    active = mu.double()[:, order[: int((variance > ACTIVE_VARIANCE).sum())]]
    return torch.corrcoef(active.T).view(active.shape[1], active.shape[1])


def off_diagonal_correlation(mu: Tensor) -> float:
    """Compute the mean absolute correlation over pairs of active dimensions; nan without a pair.

    Constant dimensions have no correlation, so inactive dimensions are excluded.
    """
    table = correlation(mu).abs()
    pairs = table.numel() - len(table)
    return ((table.sum() - table.trace()) / pairs).item() if pairs else math.nan


def effective_rank(mu: Tensor) -> float:
    """Compute exp of the entropy of the covariance's normalised eigenvalues (Roy, Vetterli 2007).

    It is between 1 and D: the number of directions of equal variance with the same entropy. nan if
    no dimension varies.
    """
    values = torch.linalg.eigvalsh(_covariance(mu.double())).clamp(min=0)
    if values.sum() == 0:
        return math.nan
    return torch.special.entr(values / values.sum()).sum().exp().item()


def posterior_samples(ids: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Sample one z from each posterior, (N, D), with noise determined by the sample id."""
    keys = sample_keys(0, torch.zeros_like(ids), ids, "latents").unsqueeze(1)
    eps = normal(keys, torch.arange(mu.shape[1], device=ids.device))
    return reparameterized(mu, logvar, eps)


def mutual_information(mu: Tensor, logvar: Tensor, z: Tensor) -> float:
    """Estimate I(page; z) under the posterior, in nats (Hoffman and Johnson 2016, section 3).

    The mean over pages of log q(z | page) - log q(z), with z (N, D) sampled from each page's
    posterior and q(z) the mean of all N posteriors. It cannot exceed log N. Near log N the latent
    distinguishes all pages, and a better estimate needs more pages.
    """
    # log q(z_i | page_j) without its constant; the expanded square is a matrix product.
    precision = (-logvar).exp()
    constant = -0.5 * (mu.square() * precision + logvar).sum(dim=1)
    total = 0.0
    for first in range(0, len(z), CHUNK):
        part = z[first : first + CHUNK]
        density = part @ (mu * precision).T - 0.5 * part.square() @ precision.T + constant
        own = density.diagonal(offset=first)
        total += (own - density.logsumexp(dim=1)).sum().item()
    return total / len(z) + math.log(len(z))


def _covariance(mu: Tensor) -> Tensor:
    """Compute the covariance of `mu` (N, D), N in the denominator: (D, D)."""
    centred = mu - mu.mean(dim=0)
    return centred.T @ centred / len(mu)
