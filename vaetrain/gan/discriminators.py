"""Discriminators: they tell original pages from reconstructions, for pages of any height.

Feature maps are zero below their pages, as everywhere (see `masked`). There is no normalisation of
activations in them: R1 differentiates twice, and statistics over a batch would depend on its cut.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vaetrain.gan.config import GanConfig
from vaetrain.model.masked import Rows, keep, rows_at

SLOPE = 0.2  # of the leaky rectifier below 0 (Radford et al. 2016)


class FeatureMap(NamedTuple):
    """What a layer makes of a page: `x` (B, C, H, W), zero below the pages' `rows`."""

    x: Tensor
    rows: Rows


class DiscriminatorOutput(NamedTuple):
    """What a discriminator says of a batch.

    Attributes:
        logits: float32 (B, N), above 0 where the page looks original.
        weights: float32 (B, N), 0 below the page, else even; 1 in the sum over each page.
        features: of each layer before the logits, for feature matching.
    """

    logits: Tensor
    weights: Tensor
    features: list[FeatureMap]

    def page_mean(self, values: Tensor) -> Tensor:
        """The mean (B,) over each page of values (B, N), one for each logit."""
        return (self.weights * values).sum(dim=1)


class LightDiscriminator(nn.Module):
    """Two strided convolutions, the mean over the page, one logit: a judge of texture.

    Kernels of 5 with stride 2 as in Larsen et al. 2016, table 1.
    """

    def __init__(self, channels: int, input_scale: float = 1.0) -> None:
        super().__init__()
        self.input_scale = input_scale
        self.convs = nn.ModuleList(
            [nn.Conv2d(1, channels, 5, 2, 2), nn.Conv2d(channels, 2 * channels, 5, 2, 2)]
        )
        self.logit = nn.Linear(2 * channels, 1)

    def forward(self, images: Tensor, heights: Tensor) -> DiscriminatorOutput:
        """Judge images (B, 1, H, W) of Long (B,) valid rows; N is 1."""
        features = _through(self.convs, self.input_scale * images, heights)
        x, rows = features[-1]
        pooled = x.sum(dim=(2, 3)) / (rows.count * x.shape[3])[:, None]
        logits = self.logit(pooled)
        return DiscriminatorOutput(logits, torch.ones_like(logits), features)

    def renew_spectral_norms(self) -> None:
        """Nothing to do: its weights are not normalised."""


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 3.2.2) under spectral norm (Miyato et al. 2018).

    One logit for each 8 x 8 pixels, which sees 54 x 54 of them. The power iteration's vectors are
    buffers; a forward pass reads them, and only `renew_spectral_norms` moves them. So how a batch
    is cut into forward passes changes nothing.
    """

    def __init__(self, channels: int, input_scale: float = 1.0) -> None:
        super().__init__()
        self.input_scale = input_scale
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
        """Judge images (B, 1, H, W), H and W multiples of 8; N is H / 8 * W / 8."""
        features = _through(self.convs, self.input_scale * images, heights)
        x, rows = features[-1]
        logits = self.logit(x)
        weights = rows.mask / (rows.count * x.shape[3])[:, None, None, None]
        return DiscriminatorOutput(
            logits.flatten(1), weights.expand_as(logits).flatten(1), features
        )

    @torch.no_grad()
    def renew_spectral_norms(self) -> None:
        """One power iteration for every layer, towards its weight's largest singular value."""
        self.train()
        for layer in (*self.convs, self.logit):
            _ = layer.weight  # in training mode it iterates when it is read
        self.eval()


Discriminator = LightDiscriminator | PatchDiscriminator


def build_discriminator(config: GanConfig) -> Discriminator:
    """The discriminator that the settings name, with random weights."""
    kinds = {"light": LightDiscriminator, "patch": PatchDiscriminator}
    return kinds[config.discriminator](config.channels, config.input_scale)


def _through(convs: nn.ModuleList, images: Tensor, heights: Tensor) -> list[FeatureMap]:
    """The feature maps after each convolution and its leaky rectifier."""
    stride, rows = 1, rows_at(heights, images.shape[2])
    # No gradient either for what lies below a page, whatever is there.
    x = keep(images.to(convs[0].bias.dtype), rows)
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        stride *= conv.stride[0]
        rows = rows_at(heights, x.shape[2], stride)
        x = keep(x, rows)
        features.append(FeatureMap(x, rows))
    return features
