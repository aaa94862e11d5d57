"""The VAE: a page of any height to a Gaussian posterior, and a latent back to a page.

Wireframes hang from the top: a header lies at the same pixel rows on a short page and on a tall
one. So beside features relative to the page's own height (pyramid pooling) the encoder keeps a
coarse grid anchored at the top, and the decoder starts from one. And since a linear map of a coarse
page explains much of it, there is a linear path from page to `mu` and from `z` to page, which may
start at the principal components of the training pages; the convolutions add to it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shards.randomness import grid_positions, normal, random_bits, uniform
from vaetrain.model.config import ModelConfig
from vaetrain.model.decoder import Decoder, SpatialSeed, VectorSeed
from vaetrain.model.encoder import Encoder, Level, SpatialHead, VectorHead
from vaetrain.model.gaussian import bounded, reparameterized
from vaetrain.model.linear_path import PatchPath, VectorPath
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.mixup import mix_pairs
from vaetrain.model.similarity import structure, structure_size
from vaetrain.model.sizes import SIZES, STRIDES
from vaetrain.model.skips import LADDER_CHANNELS

LOGIT_EPS = 1 / 255  # the coarse page's values are kept so far from 0 and 1 before their logits


class Noise(NamedTuple):
    """The random inputs of a forward pass.

    Attributes:
        eps: standard normal, of the latent's shape, (B, D) or (B, D, H / 16, W / 16).
        ladder: standard normal for each level of a ladder, (B, 4, h, w); empty without one.
        gate: (B,) in [0, 1], how far skips are open for each page.
    """

    eps: Tensor
    ladder: tuple[Tensor, ...]
    gate: Tensor


class VAEOutput(NamedTuple):
    """What a forward pass returns.

    Attributes:
        reconstruction: (B, 1, H, W), not clipped, 0 below the pages.
        mu, logvar: the posterior, of the latent's shape; 0 below the pages.
        ladder: float32 (B, levels), the KL of a ladder's levels in nats; no columns without one.
        logits: of the reconstruction, where the model's output is a sigmoid's; else the page.
    """

    reconstruction: Tensor
    mu: Tensor
    logvar: Tensor
    ladder: Tensor
    logits: Tensor


class Posterior(NamedTuple):
    """What the encoder says of some pages.

    Attributes:
        mu, logvar: of the latent's shape; 0 below the pages.
        levels: the encoder's maps, which skips hand to the decoder.
    """

    mu: Tensor
    logvar: Tensor
    levels: list[Level]


class VAE(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014) of pages of one width.

    Attributes:
        stride: widths and padded heights are multiples of it.
        latent_dim: D.
        map_size: (rows, columns) of the encoder's first map of the tallest page.
        is_spatial: whether the latent is (B, D, H / 16, W / 16) rather than (B, D).
        skip_gate: scalar buffer, how far skips are open for passes without `Noise`.
    """

    stride = STRIDES[-1]

    def __init__(self, config: ModelConfig, width: int, max_height: int) -> None:
        """Build the model for images `width` wide; grids reach down to `max_height` rows."""
        super().__init__()
        self.config = config
        self.latent_dim = config.latent_dim
        self.is_spatial = config.latent == "spatial"
        rows = -(-max_height // self.stride)
        self.map_size = (rows * self.stride // STRIDES[0], width // STRIDES[0])
        grid = (rows, width // self.stride)
        self.encoder = Encoder(config)
        if self.is_spatial:
            self.linear: nn.Module = PatchPath(config.latent_dim, width)
            self.head, seed = SpatialHead(config), SpatialSeed(config)
        else:
            self.linear = VectorPath(config.latent_dim, width, rows * self.stride)
            self.head, seed = VectorHead(config, grid), VectorSeed(config, grid)
        self.decoder = Decoder(config, seed, self.linear.cell)
        self.register_buffer("skip_gate", torch.ones(()))

    def forward(
        self, images: Tensor, heights: Tensor, noise: Noise, shares: Tensor | None = None
    ) -> VAEOutput:
        """Encode, draw `z = mu + exp(logvar / 2) * eps`, decode.

        Args:
            images: (B, 1, H, W) in [0, 1], 0 below the pages; H and W are multiples of `stride`.
            heights: Long (B,), rows of each page.
            noise: from `draw_noise`.
            shares: (B,), each page's share of its pair's latent (`mixup`); None: nothing is mixed.
        """
        mu, logvar, levels = self.posterior(images, heights)
        z = reparameterized(mu, logvar, noise.eps)
        if shares is not None:
            z = mix_pairs(z, shares)
        size = tuple(images.shape[2:])
        page, logits, ladder = self._decoded(
            z, heights, size, levels, gate=noise.gate, eps=noise.ladder
        )
        return VAEOutput(page, mu, logvar, ladder, logits)

    def encode(self, images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's `mu` and `logvar` of images (B, 1, H, W)."""
        mu, logvar, _ = self.posterior(images, heights)
        return mu, logvar

    def posterior(self, images: Tensor, heights: Tensor) -> Posterior:
        """What `reconstruct` needs of images (B, 1, H, W)."""
        levels = self.encoder(images, heights)
        x, rows = levels[-1]
        mu, logvar = self.head(x, rows).chunk(2, dim=1)
        return Posterior(mu + self.linear.mu(images, rows), bounded(logvar), levels)

    def decode(
        self,
        z: Tensor,
        heights: Tensor,
        size: tuple[int, int],
        ladder: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """The pages (B, 1, H, W) of latents alone, 0 below their heights, not clipped.

        Args:
            ladder: noise for a ladder's prior, see `Noise`; empty: its means.
        """
        page, _, _ = self._decoded(z, heights, size, None, gate=None, eps=ladder)
        return page

    def reconstruct(
        self,
        posterior: Posterior,
        heights: Tensor,
        size: tuple[int, int],
        *,
        skips: bool = True,
        shuffle: bool = False,
        eps: Tensor | None = None,
    ) -> VAEOutput:
        """Pages decoded from `mu`, with what skips add in an evaluation.

        Args:
            skips: False: from the latent alone; a ladder's levels come from their prior's means.
            shuffle: decode from the next page's latent, with a page's own skips: a probe of what
                the decoder makes of its latent.
            eps: standard normal noise; a latent is then drawn from the posterior instead.
        """
        mu, logvar, levels = posterior
        z = mu if eps is None else reparameterized(mu, logvar, eps)
        z = self.keep_latent(z.roll(1, 0), heights) if shuffle else z
        gate = self.skip_gate.expand(len(mu))
        page, logits, ladder = self._decoded(z, heights, size, levels if skips else None, gate=gate)
        return VAEOutput(page, mu, logvar, ladder, logits)

    @property
    def starts_from_pca(self) -> bool:
        """Whether the linear path is to start at the data's principal components."""
        return self.config.start == "components" and not self.is_spatial

    @property
    def ladder_levels(self) -> int:
        """Levels of latents below the first; 0 without a ladder."""
        return len(self.decoder.skips) if self.decoder.is_ladder else 0

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one page's latent for pages padded to (H, W)."""
        if not self.is_spatial:
            return (self.latent_dim,)
        return (self.latent_dim, size[0] // self.stride, size[1] // self.stride)

    def keep_latent(self, z: Tensor, heights: Tensor) -> Tensor:
        """A latent with zeros where the page of a spatial one has ended."""
        if not self.is_spatial:
            return z
        return keep(z, rows_at(heights, z.shape[2], self.stride))

    def embed(self, latent: Tensor, heights: Tensor) -> Tensor:
        """One vector a page, (B, D): the latent, or the mean of a spatial one over its places."""
        if not self.is_spatial:
            return latent
        places = rows_at(heights, latent.shape[2], self.stride).count * latent.shape[3]
        return latent.sum(dim=(2, 3)) / places.clamp(min=1)[:, None]

    def structure(self, levels: list[Level]) -> Tensor:
        """What the encoder's first map shows of pages' boxes, (B, S); see `similarity`."""
        return structure(levels[0][0], self.map_size[0])

    @property
    def structure_dim(self) -> int:
        """S."""
        return structure_size(SIZES[self.config.size].channels[0], *self.map_size)

    @torch.no_grad()
    def start_from_pca(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """Start the linear path at a PCA of the data; see `VectorPath.start_from_pca`."""
        self.linear.start_from_pca(mean, components, deviations)
        self.head.start_logvar(self.config.start_logvar)

    def _decoded(
        self,
        z: Tensor,
        heights: Tensor,
        size: tuple[int, int],
        levels: list[Level] | None,
        gate: Tensor | None,
        eps: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor, Tensor]:
        z = self.keep_latent(z, heights)
        coarse = self.linear.page(z, size[0])
        base, added, ladder = self.decoder(z, coarse, heights, size, levels, gate, eps)
        if self.config.output == "linear":
            page = base + added
            return page, page, ladder
        logits = torch.logit(base.float().clamp(LOGIT_EPS, 1 - LOGIT_EPS)) + added
        return keep(torch.sigmoid(logits), rows_at(heights, size[0])), logits, ladder


def draw_noise(
    model: VAE, keys: Tensor, size: tuple[int, int], gate: float, dropout: float
) -> Noise:
    """Draw the noise of a forward pass: a function of each sample's key and the position within it.

    Args:
        keys: Long (B,), of `shards.randomness.sample_keys`.
        size: (H, W) that the pages are padded to.
        gate: how far skips are open now.
        dropout: share of pages whose gate is shut.
    """
    eps = _standard_normal(keys, model.latent_shape(size))
    ladder: tuple[Tensor, ...] = ()
    # A purpose of its own for each: the latent's positions would come again in the levels.
    if model.config.skips == "hierarchical":
        ladder = ladder_noise(model, random_bits(keys, torch.full_like(keys, -2)), size)
    kept = uniform(random_bits(keys, torch.full_like(keys, -1)), torch.zeros_like(keys)) >= dropout
    return Noise(eps, ladder, kept * gate)


def ladder_noise(model: VAE, keys: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Standard normal noise for each level of a ladder, from keys Long (B,)."""
    return tuple(
        _standard_normal(
            random_bits(keys, torch.full_like(keys, stride)),
            (LADDER_CHANNELS, size[0] // stride, size[1] // stride),
        )
        for stride in STRIDES[-2::-1]
    )


def _standard_normal(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal (B, *shape), at positions that do not depend on how far a page is padded."""
    if len(shape) == 1:
        return normal(keys[:, None], torch.arange(shape[0], device=keys.device))
    channels = torch.arange(shape[0], device=keys.device)
    of_channels = random_bits(keys[:, None], channels)[:, :, None, None]
    return normal(of_channels, grid_positions(shape[1], shape[2], keys.device))
