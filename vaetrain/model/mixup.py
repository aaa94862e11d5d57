"""Latent mixup: two pages share one latent, which is decoded to both of them.

Neighbouring slots (2k, 2k + 1) of the global order, which always lie in one micro batch, are mixed
(Zhang et al. 2018, eq. 1, applied to latents instead of images): z = lambda z_even + (1 - lambda)
z_odd with lambda from Beta(alpha, alpha). The mixed latent is decoded at the size of each of the
two pages, and the losses against the two pages are weighted by lambda and 1 - lambda.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shards.randomness import random_bits, sample_keys, uniform

QUANTILES = 4096  # number of values that lambda can take


class Mixup:
    """Random lambda: a function of seed, epoch and the two sample ids, on the batch's device."""

    def __init__(self, alpha: float, device: torch.device) -> None:
        from scipy.stats import beta  # takes most of a second to import; most runs do not mix

        midpoints = (np.arange(QUANTILES) + 0.5) / QUANTILES
        self.quantiles = torch.tensor(
            beta.ppf(midpoints, alpha, alpha), dtype=torch.float32, device=device
        )

    def shares(self, seed: int, epochs: Tensor, ids: Tensor) -> Tensor:
        """Return each page's share of its pair's latent, float32 (B,); a pair's shares sum to 1.

        Args:
            epochs, ids: Long (B,), B even.
        """
        keys = sample_keys(seed, epochs[0::2], ids[0::2], "mixup")
        u = uniform(random_bits(keys, ids[1::2]), torch.zeros_like(keys))
        share = self.quantiles[(u * QUANTILES).long()]
        return torch.stack([share, 1 - share], dim=1).flatten()


def mix_pairs(z: Tensor, shares: Tensor) -> Tensor:
    """Replace each pair of latents (B, ...) by its weighted sum, which both slots then hold."""
    weighted = z * shares.view(-1, *(1,) * (z.dim() - 1))
    pairs = weighted.unflatten(0, (-1, 2)).sum(dim=1)
    return pairs.repeat_interleave(2, dim=0, output_size=len(z))
