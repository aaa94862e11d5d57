"""Skip connections from the encoder to the decoder: gated features, or a ladder of latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaetrain.model.gaussian import bounded, gaussian_kl, reparameterized
from vaetrain.model.layers import zero_
from vaetrain.model.masked import Rows, keep

LADDER_CHANNELS = 4  # latent dimensions at each position of a ladder's level


class GatedSkip(nn.Module):
    """The encoder's features, multiplied by a gate and added to the decoder's features.

    A U-Net's skip connections (Ronneberger et al. 2015) have no gate; with them a decoder learns to
    ignore its latent.

    Attributes:
        has_latent: whether `forward` takes noise and returns a KL.
    """

    has_latent = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(
        self,
        x: Tensor,
        features: Tensor | None,
        gate: Tensor | None,
        eps: Tensor | None,
        rows: Rows,
    ) -> tuple[Tensor, None]:
        """Add the encoder's features to the decoder's.

        A closed gate multiplies by 0, so that the graph is the same on every rank.

        Args:
            x: (B, C, h, w), 0 below the pages.
            features: of the encoder, of the same shape; None: `x` is returned.
            gate: (B,) in [0, 1], 1 for a fully open gate; required with features.
            eps: not used.
            rows: valid rows; not used.

        Returns: the sum, and None, as there is no KL.
        """
        if features is None:
            return x, None
        return x + gate.to(x.dtype)[:, None, None, None] * self.project(features), None


class Ladder(nn.Module):
    """One level of a ladder of latents (Sonderby et al. 2016) with a learned prior.

    The prior is a Gaussian that depends on the decoder's features and so on all levels above. The
    posterior also sees the encoder's features and is parameterised relative to the prior (Vahdat
    and Kautz 2020, section 3.2): the network gives mean and log variance of `(z - prior mean) /
    prior deviation`, whose KL is that from N(0, 1). The loss remains an evidence lower bound.
    Without the encoder's features the latent is sampled from the prior.

    Attributes:
        has_latent: whether `forward` takes noise and returns a KL.
    """

    has_latent = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = zero_(nn.Conv2d(channels, 2 * LADDER_CHANNELS, 1))
        self.posterior = zero_(nn.Conv2d(2 * channels, 2 * LADDER_CHANNELS, 1))
        self.project = nn.Conv2d(LADDER_CHANNELS, channels, 1, bias=False)
        # Small, because samples of an untrained posterior are noise to the decoder.
        nn.init.normal_(self.project.weight, std=0.1 / math.sqrt(LADDER_CHANNELS))

    def forward(
        self,
        x: Tensor,
        features: Tensor | None,
        gate: Tensor | None,
        eps: Tensor | None,
        rows: Rows,
    ) -> tuple[Tensor, Tensor]:
        """Add this level's latent to the decoder's features.

        Args:
            x: (B, C, h, w), 0 below the pages.
            features: of the encoder, of the same shape; None: the latent comes from the prior.
            gate: (B,) in [0, 1], required with features. At 0 the posterior equals the prior. The
                loss is a lower bound at every value.
            eps: (B, LADDER_CHANNELS, h, w), standard normal; None: the mean is used.
            rows: valid rows.

        Returns: the sum, and the KL in nats per page, float32 (B,), 0 without features.
        """
        mean, logvar = self.prior(x).chunk(2, dim=1)
        kl = x.new_zeros(x.shape[0], dtype=torch.float32)
        z = torch.zeros_like(mean) if eps is None else eps
        if features is not None:
            mu, own_logvar = self.posterior(torch.cat([x, features], dim=1)).chunk(2, dim=1)
            own_logvar = bounded(own_logvar)
            mu, own_logvar = (gate[:, None, None, None] * part for part in (mu, own_logvar))
            kl = keep(gaussian_kl(mu, own_logvar), rows).sum(dim=(1, 2, 3))
            z = reparameterized(mu, own_logvar, z)
        z = reparameterized(mean, bounded(logvar), z)
        return x + keep(self.project(z), rows), kl
