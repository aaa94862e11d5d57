"""Gaussians of posteriors and priors: bounded log variance, sampling and KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaetrain.model.full_precision import full_precision, in_float32

LOGVAR_BOUND = 12.0


@in_float32
def bounded(logvar: Tensor) -> Tensor:
    """Bound a log variance smoothly, so that exp(logvar) stays finite after a bad step."""
    return LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)


def unbounded(logvar: float) -> float:
    """Return the inverse of `bounded`."""
    return LOGVAR_BOUND * math.atanh(logvar / LOGVAR_BOUND)


@in_float32
def reparameterized(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """Sample N(mu, exp(logvar)) with standard normal noise (Kingma and Welling 2014, 2.4)."""
    return mu + torch.exp(0.5 * logvar) * eps


@full_precision
def in_deviations(difference: Tensor, logvar: Tensor) -> Tensor:
    """Divide a difference of means by the standard deviation of a Gaussian of `logvar`."""
    return difference * torch.exp(-0.5 * logvar)


@full_precision
def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute KL(N(mu, exp(logvar)) || N(0, 1)) of each dimension, in nats; shape of `mu`.

    The formula is that of Kingma and Welling 2014, appendix B, with expm1 for variances near 1.
    """
    return 0.5 * (mu.square() + logvar.expm1() - logvar)
