"""Skip connections from the encoder to the decoder: gated features, or a ladder of latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaetrain.model.config import ModelConfig
from vaetrain.model.gaussian import bounded, gaussian_kl, in_deviations, reparameterized, unbounded
from vaetrain.model.layers import zero_
from vaetrain.model.masked import MaskedGroupNorm, Rows, keep
from vaetrain.model.registry import SIZES


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

    @classmethod
    def build_levels(cls, config: ModelConfig) -> dict[int, GatedSkip]:
        """Build a connection after each stage of the decoder, by the number of stages before it.

        None is before the first stage: the latent is computed from the encoder's coarsest map.
        """
        channels = SIZES[config.size].channels[-2::-1]
        return {number: cls(width) for number, width in enumerate(channels, 1)}

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


START_LOGVAR = -4.0  # of a ladder's priors, see `Ladder`
START_WEIGHT = 0.1  # deviation of the first differences between posterior and prior, about


class GaussianMap(nn.Module):
    """Gaussians at the positions of a map: 3x3 convolution, norm, SiLU, 1x1 convolution.

    The last convolution is initialised to 0: mean 0 and log variance 0.
    """

    def __init__(self, inputs: int, hidden: int, dimensions: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, hidden, 3, padding=1, bias=False)
        self.norm = MaskedGroupNorm(hidden)
        self.leave = zero_(nn.Conv2d(hidden, 2 * dimensions, 1))

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Map (B, inputs, h, w) to mean and bounded log variance, (B, dimensions, h, w) each."""
        mean, logvar = self.leave(F.silu(self.norm(self.enter(x), rows))).chunk(2, dim=1)
        return mean, bounded(logvar)


class Ladder(nn.Module):
    """One level of a ladder of latents (Sonderby et al. 2016) with a learned prior.

    The prior is a Gaussian that depends on the decoder's features and so on all levels above. The
    posterior also sees the encoder's features and is parameterised relative to the prior (Vahdat
    and Kautz 2020, section 3.2): the network gives the difference of the means, and the log ratio
    of the variances. The loss remains an evidence lower bound. Without the encoder's features the
    latent is sampled from the prior.

    Attributes:
        has_latent: whether `forward` takes noise and returns a KL.
        dimensions: of the latent at each position.
    """

    has_latent = True

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.prior = GaussianMap(channels, channels, dimensions)
        self.posterior = GaussianMap(2 * channels, channels, dimensions)
        self.project = nn.Conv2d(dimensions, channels, 1, bias=False)
        # The scale of a level is arbitrary, but the steps of Adam are not: with a deviation of 1 a
        # message needs many steps to rise above the noise, and the KL ends it before.
        nn.init.normal_(self.project.weight, std=1 / math.sqrt(dimensions))
        nn.init.normal_(self.posterior.leave.weight, std=START_WEIGHT / math.sqrt(channels))
        nn.init.constant_(self.prior.leave.bias[dimensions:], unbounded(START_LOGVAR))

    @classmethod
    def build_levels(cls, config: ModelConfig) -> dict[int, Ladder]:
        """Build the levels by the number of stages of the decoder before them."""
        channels = SIZES[config.size].channels[::-1]
        levels = enumerate(zip(channels, config.ladder_channels, strict=False))
        return {number: cls(*level) for number, level in levels if level[1] > 0}

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
            eps: (B, dimensions, h, w), standard normal; None: the mean is used.
            rows: valid rows.

        Returns: the sum, and the KL in nats per page, float32 (B,), 0 without features.
        """
        mean, logvar = self.prior(x, rows)
        kl = x.new_zeros(x.shape[0], dtype=torch.float32)
        if features is not None:
            difference, log_ratio = self.posterior(torch.cat([x, features], dim=1), rows)
            gate = gate[:, None, None, None]
            difference, log_ratio = gate * difference, gate * log_ratio
            kl = keep(gaussian_kl(in_deviations(difference, logvar), log_ratio), rows)
            kl = kl.sum(dim=(1, 2, 3))
            mean, logvar = mean + difference, logvar + log_ratio
        z = mean if eps is None else reparameterized(mean, logvar, eps)
        return x + keep(self.project(z), rows), kl
