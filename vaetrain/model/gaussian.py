"""The Gaussian of every posterior and prior: a bound for its log variance, and a draw of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaetrain.model.precision import full_precision

LOGVAR_BOUND = 12.0


def bounded(logvar: Tensor) -> Tensor:
    """A smooth bound: exp(logvar) stays finite whatever a bad step does to the head."""
    return LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)


def unbounded(logvar: float) -> float:
    """What `bounded` makes this log variance of."""
    return LOGVAR_BOUND * math.atanh(logvar / LOGVAR_BOUND)


def reparameterized(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """A draw of N(mu, exp(logvar)) from standard normal noise (Kingma and Welling 2014, 2.4)."""
    return mu + torch.exp(0.5 * logvar) * eps


@full_precision
def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each latent dimension, in nats; shape of `mu`.

    The formula of Kingma & Welling 2014, appendix B, with expm1 for variances near 1.
    """
    return 0.5 * (mu.square() + logvar.expm1() - logvar)
