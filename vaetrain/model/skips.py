"""What the decoder gets beside the latent: gated skips, or a ladder of latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaetrain.model.blocks import zero_
from vaetrain.model.gaussian import bounded, gaussian_kl, reparameterized
from vaetrain.model.masked import Rows, keep

LADDER_CHANNELS = 4  # latents at each place of a level


class GatedSkip(nn.Module):
    """The encoder's features, added to the decoder's behind a gate (U-Net's skips, Ronneberger
    et al. 2015, which a decoder would otherwise use instead of its latent)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, features: Tensor, gate: Tensor) -> Tensor:
        """Maps (B, C, h, w) both, zero below the pages, and a gate (B,) in [0, 1] to the same.

        A shut gate multiplies by 0: the branch stays in the graph, for every rank alike.
        """
        return x + gate.to(x.dtype)[:, None, None, None] * self.project(features)


class Ladder(nn.Module):
    """One level of a ladder of latents (Sonderby et al. 2016) with a learned prior.

    The prior is a Gaussian that depends on the decoder's features, so on all levels above; the
    posterior sees the encoder's, too, and is given relative to the prior (Vahdat and Kautz 2020,
    section 3.2): with mean and variance of `(z - prior mean) / prior deviation` the KL is that
    from N(0, 1). The bound stays a bound, and without an encoder the prior is drawn from.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.prior = zero_(nn.Conv2d(channels, 2 * LADDER_CHANNELS, 1))
        self.posterior = zero_(nn.Conv2d(2 * channels, 2 * LADDER_CHANNELS, 1))
        self.project = nn.Conv2d(LADDER_CHANNELS, channels, 1, bias=False)
        # Small: before the posterior knows anything, what it draws is noise to the decoder.
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
            x: (B, C, h, w), zero below the pages.
            features: the encoder's, of the same shape; None: the latent comes from the prior.
            gate: (B,) in [0, 1], how far the posterior leaves the prior: at 0 it is the prior, at
                any value it is a posterior, and the bound holds. Needed with features.
            eps: (B, LADDER_CHANNELS, h, w), standard normal; None: the mean is taken.
            rows: the pages' rows.

        Returns: `x` with the latent, and the KL in nats a page, float32 (B,), 0 from the prior.
        """
        mean, logvar = self.prior(x).chunk(2, dim=1)
        nats = x.new_zeros(x.shape[0], dtype=torch.float32)
        z = torch.zeros_like(mean) if eps is None else eps
        if features is not None:
            mu, own_logvar = self.posterior(torch.cat([x, features], dim=1)).chunk(2, dim=1)
            own_logvar = bounded(own_logvar)
            mu, own_logvar = (gate[:, None, None, None] * part for part in (mu, own_logvar))
            nats = keep(gaussian_kl(mu, own_logvar), rows).sum(dim=(1, 2, 3))
            z = reparameterized(mu, own_logvar, z)
        z = reparameterized(mean, bounded(logvar), z)
        return x + keep(self.project(z), rows), nats
