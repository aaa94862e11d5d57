"""Discriminators of original pages and reconstructions, for pages of any height.

Feature maps are zero in the padding (see `masked`). Activations are not normalised, because R1
differentiates twice, and because statistics over a batch would depend on how it is split into micro
batches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vaetrain.gan.config import GanConfig
from vaetrain.gan.registry import DISCRIMINATORS
from vaetrain.model.masked import Rows, keep, rows_at

SLOPE = 0.2  # of the leaky ReLU below 0 (Radford et al. 2016)


class FeatureMap(NamedTuple):
    """Output of a layer: `x` (B, C, H, W), zero below the pages' `rows`."""

    x: Tensor
    rows: Rows


class DiscriminatorOutput(NamedTuple):
    """Output of a discriminator for a batch.

    Attributes:
        logits: float32 (B, N), higher for original pages.
        weights: float32 (B, N), equal on the page, 0 in the padding; 1 in the sum over each page.
        features: of each layer before the logits, for feature matching.
    """

    logits: Tensor
    weights: Tensor
    features: list[FeatureMap]

    def page_mean(self, values: Tensor) -> Tensor:
        """Return the mean (B,) over each page of values (B, N), one for each logit."""
        return (self.weights * values).sum(dim=1)


class Discriminator(nn.Module):
    """Base of all discriminators; listed in `registry.DISCRIMINATORS`."""

    def __init__(self, channels: int, input_scale: float = 1.0) -> None:
        """Build it with random weights.

        Args:
            channels: of the first layer.
            input_scale: factor on the images.
        """
        super().__init__()
        self.input_scale = input_scale

    def forward(self, images: Tensor, heights: Tensor) -> DiscriminatorOutput:
        """Compute the logits of images (B, 1, H, W) of Long (B,) valid rows."""
        raise NotImplementedError

    def renew_spectral_norms(self) -> None:
        """Update the estimates of spectral norms; called once before each discriminator step."""


class LightDiscriminator(Discriminator):
    """Two strided convolutions, the mean over the page and one logit: sensitive to texture.

    Kernels of 5 with stride 2 as in Larsen et al. 2016, table 1.
    """

    def __init__(self, channels: int, input_scale: float = 1.0) -> None:
        super().__init__(channels, input_scale)
        self.convs = nn.ModuleList(
            [nn.Conv2d(1, channels, 5, 2, 2), nn.Conv2d(channels, 2 * channels, 5, 2, 2)]
        )
        self.logit = nn.Linear(2 * channels, 1)

    def forward(self, images: Tensor, heights: Tensor) -> DiscriminatorOutput:
        """See `Discriminator.forward`; N is 1."""
        features = _feature_maps(self.convs, self.input_scale * images, heights)
        x, rows = features[-1]
        pooled = x.sum(dim=(2, 3)) / (rows.count * x.shape[3])[:, None]
        logits = self.logit(pooled)
        return DiscriminatorOutput(logits, torch.ones_like(logits), features)


class PatchDiscriminator(Discriminator):
    """PatchGAN (Isola et al. 2017, section 3.2.2) with spectral norm (Miyato et al. 2018).

    One logit for each 8 x 8 pixels, with a receptive field of 54 x 54. The vectors of the power
    iteration are buffers, which a forward pass reads and only `renew_spectral_norms` updates, so
    that the number of forward passes in a step does not change the result.
    """

    def __init__(self, channels: int, input_scale: float = 1.0) -> None:
        super().__init__(channels, input_scale)
        layers = [
            nn.Conv2d(1, channels, 4, 2, 1),
            nn.Conv2d(channels, 2 * channels, 4, 2, 1),
            nn.Conv2d(2 * channels, 4 * channels, 4, 2, 1),
            nn.Conv2d(4 * channels, 4 * channels, 3, 1, 1),
        ]
        self.convs = nn.ModuleList(spectral_norm(layer) for layer in layers)
        self.logit = spectral_norm(nn.Conv2d(4 * channels, 1, 3, 1, 1))
        self.eval()

    def forward(self, images: Tensor, heights: Tensor) -> DiscriminatorOutput:
        """See `Discriminator.forward`; H and W are multiples of 8, and N is H / 8 * W / 8."""
        features = _feature_maps(self.convs, self.input_scale * images, heights)
        x, rows = features[-1]
        logits = self.logit(x)
        weights = rows.mask / (rows.count * x.shape[3])[:, None, None, None]
        return DiscriminatorOutput(
            logits.flatten(1), weights.expand_as(logits).flatten(1), features
        )

    @torch.no_grad()
    def renew_spectral_norms(self) -> None:
        """Run one power iteration for each layer, towards its weight's largest singular value."""
        self.train()
        for layer in (*self.convs, self.logit):
            _ = layer.weight  # reading it in training mode runs the iteration
        self.eval()


def build_discriminator(config: GanConfig) -> Discriminator:
    """Build the discriminator that the settings name, with random weights."""
    kind = DISCRIMINATORS[config.discriminator].load()
    return kind(config.channels, config.input_scale)


def _feature_maps(convs: nn.ModuleList, images: Tensor, heights: Tensor) -> list[FeatureMap]:
    """Return the feature maps after each convolution and its leaky ReLU."""
    stride, rows = 1, rows_at(heights, images.shape[2])
    # Masked at the input too, so that the padding gets no gradient, whatever its values.
    x = keep(images.to(convs[0].bias.dtype), rows)
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        stride *= conv.stride[0]
        rows = rows_at(heights, x.shape[2], stride)
        x = keep(x, rows)
        features.append(FeatureMap(x, rows))
    return features
