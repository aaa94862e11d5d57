"""Statistics of the posteriors of a set of pages, in float64.

`mu` and `logvar` are (N, D): the posteriors of N pages. Information and KL are in nats. Only
`mutual_information` compares pages with one another, so only its cost grows with N squared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shards.randomness import normal, sample_keys
from vaetrain.evaluation.accumulators import Moments
from vaetrain.model.gaussian import reparameterized

ACTIVE_VARIANCE = 0.01  # of mu over the data (Burda et al. 2016, section 5.3)
CHUNK = 1024  # pages compared with all others at once, which bounds the memory


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of the posteriors of N pages; float64.

    Attributes:
        count: N.
        mean: (D,), of `mu`.
        variance, deviation: (D,), of `mu`, N - 1 in the denominator; nan for one page.
        covariance: (D, D), of `mu`, N in the denominator.
        correlation: (A, A), see `correlation`.
        posterior_std: mean posterior standard deviation over pages and dimensions.
        posterior_variance: (D,), mean over pages.
        kl: (K,), mean KL of each dimension, then of each ladder level.
    """

    count: int
    mean: Tensor
    variance: Tensor
    deviation: Tensor
    covariance: Tensor
    correlation: Tensor
    posterior_std: float
    posterior_variance: Tensor
    kl: Tensor

    @classmethod
    def from_pages(cls, mu: Tensor, logvar: Tensor, kl: Tensor) -> LatentStatistics:
        """Compute the statistics of pages whose posteriors are all at hand.

        Args:
            mu, logvar: (N, D).
            kl: (N, K).
        """
        mu, logvar = mu.double(), logvar.double()
        mean = mu.mean(dim=0)
        undefined, none = torch.full_like(mean, torch.nan), mu.new_empty(0, 0)
        several = len(mu) > 1
        return cls(
            count=len(mu),
            mean=mean,
            variance=mu.var(dim=0) if several else undefined,
            deviation=mu.std(dim=0) if several else undefined,
            covariance=_covariance(mu),
            correlation=correlation(mu) if several else none,
            posterior_std=(logvar / 2).exp().mean().item(),
            posterior_variance=logvar.exp().mean(dim=0),
            kl=kl.mean(dim=0),
        )

    @classmethod
    def from_moments(
        cls, mu: Moments, posterior_std: float, posterior_variance: Tensor, kl: Tensor
    ) -> LatentStatistics:
        """Compute the statistics from the moments of `mu` and from means; see the attributes."""
        variance = mu.covariance.diagonal() * (mu.count / max(mu.count - 1, 1))
        order = variance.argsort(descending=True)
        active = order[: int((variance > ACTIVE_VARIANCE).sum())]
        covariance = mu.covariance[active][:, active]
        scale = covariance.diagonal().sqrt()
        return cls(
            count=mu.count,
            mean=mu.mean,
            variance=variance,
            deviation=variance.sqrt(),
            covariance=mu.covariance,
            correlation=(covariance / scale / scale[:, None]).clamp(-1, 1),
            posterior_std=posterior_std,
            posterior_variance=posterior_variance,
            kl=kl,
        )

    @property
    def active(self) -> Tensor:
        """Mask of the active units: bool (D,) (Burda et al. 2016, section 5.3).

        A dimension is active if its `mu` has a variance over 0.01 over the pages.
        """
        return self.variance > ACTIVE_VARIANCE


def latent_metrics(latents: LatentStatistics) -> dict[str, float]:
    """Return the scalar statistics by the names they are logged under.

    Returns: for one page, which has no variance, only three of them.
    """
    of_latent, levels = latents.kl.tensor_split([len(latents.variance)])
    metrics = {
        "kl_per_dim_max": of_latent.max().item(),
        "latent_mean_abs": latents.mean.abs().mean().item(),
        "posterior_std_mean": latents.posterior_std,
    }
    if len(levels):
        metrics["kl_latent"] = of_latent.sum().item()
        metrics |= {f"kl_level_{number}": kl for number, kl in enumerate(levels.tolist(), 1)}
    if latents.count < 2:
        return metrics
    return metrics | {
        "active_units": int(latents.active.sum()),
        "active_units_of": len(latents.variance),
        "latent_std_mean": latents.deviation.mean().item(),
        "latent_std_min": latents.deviation.min().item(),
        "latent_std_max": latents.deviation.max().item(),
        "latent_variance_mean": latents.deviation.square().mean().item(),
        "aggregate_kl": aggregate_kl(latents),
        "latent_correlation": off_diagonal_mean(latents.correlation),
        "effective_rank": effective_rank(latents.covariance),
    }


def in_posterior_stds(mu: Tensor, logvar: Tensor) -> Tensor:
    """Scale `mu` (N, D) to units of each dimension's mean posterior standard deviation, float64.

    Args:
        logvar: (M, D), posteriors of the pages that the units are computed from.

    Posteriors are narrow in dimensions that change a page much. Raw `mu` has the prior's unit in
    every dimension, like whitened principal components, so that many small details dominate
    distances.
    """
    return mu.double() / (logvar.double() / 2).exp().mean(dim=0)


def aggregate_kl(latents: LatentStatistics) -> float:
    """Compute the KL from N(0, I) of the Gaussian with the aggregated posterior's moments, in nats.

    The aggregated posterior (Makhzani et al. 2015, section 2) is the mean of the pages' posteriors.
    Its covariance is that of `mu` (N in the denominator) plus the mean variance on the diagonal.
    A Gaussian has the largest entropy for given moments, so this is a lower bound of the aggregated
    posterior's KL. Unlike a sampled estimate it does not depend on N through log N.
    """
    covariance = latents.covariance + torch.diag(latents.posterior_variance)
    spread = covariance.trace() - torch.logdet(covariance)
    return (0.5 * (spread + latents.mean.square().sum() - len(latents.mean))).item()


def correlation(mu: Tensor) -> Tensor:
    """Compute the Pearson correlation of the active dimensions: (A, A), A may be 0.

    Dimensions are in descending order of their variance.
    """
    variance = mu.double().var(dim=0)
    order = variance.argsort(descending=True)
    active = mu.double()[:, order[: int((variance > ACTIVE_VARIANCE).sum())]]
    return torch.corrcoef(active.T).view(active.shape[1], active.shape[1])


def off_diagonal_mean(table: Tensor) -> float:
    """Compute the mean absolute correlation over pairs of active dimensions; nan without a pair.

    Args:
        table: (A, A), see `correlation`; inactive dimensions may be constant, without correlation.
    """
    table = table.abs()
    pairs = table.numel() - len(table)
    return ((table.sum() - table.trace()) / pairs).item() if pairs else math.nan


def effective_rank(covariance: Tensor) -> float:
    """Compute exp of the entropy of the covariance's normalised eigenvalues (Roy, Vetterli 2007).

    It is between 1 and D: the number of directions of equal variance with the same entropy. nan if
    no dimension varies.
    """
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
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
