"""The VAE: from a page of any height to a Gaussian posterior, and from a latent to a page.

Wireframes are anchored at the top: a header lies at the same pixel rows on a short page and on a
tall one. So beside features relative to the page's own height (pyramid pooling) the encoder of a
vector latent has a coarse grid anchored at the top, and its decoder starts from such a grid. As a
linear map of a coarse page explains much of the page, there is also a linear path from page to `mu`
and from `z` to page, which can be initialised with the PCA of the training pages. The convolutions
are added to it.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shards.randomness import grid_positions, normal, normal_of_bits, random_bits, uniform
from vaetrain.model.config import ModelConfig
from vaetrain.model.decoder import Decoder
from vaetrain.model.embedding import EmbeddingSpace, StructureSizes, page_structure, structure_sizes
from vaetrain.model.encoder import Encoder, Level
from vaetrain.model.full_precision import widened
from vaetrain.model.gaussian import bounded, reparameterized
from vaetrain.model.inputs import checked_images, checked_latents
from vaetrain.model.layers import fit_rows
from vaetrain.model.masked import Rows, rows_at, rows_at_strides
from vaetrain.model.mixup import mix_pairs
from vaetrain.model.outputs import build_output
from vaetrain.model.registry import LATENTS, SIZES, STRIDES
from vaetrain.settings import ConfigError


class Noise(NamedTuple):
    """Random inputs of a forward pass.

    Attributes:
        eps: standard normal, of the latent's shape, (B, D) or (B, D, H / 16, W / 16).
        ladder: standard normal for each level of a ladder, (B, C, h, w), 0 for pages whose gate is
            dropped; empty without a ladder.
        gate: (B,) in [0, 1], gate of each page's skip connections, 1 for open; 0 without any.
    """

    eps: Tensor
    ladder: tuple[Tensor, ...]
    gate: Tensor


class VAEOutput(NamedTuple):
    """Output of a forward pass.

    Attributes:
        reconstruction: (B, 1, H, W), not clipped, 0 below the pages.
        mu, logvar: of the posterior, of the latent's shape; 0 below the pages.
        ladder: KL of a ladder's levels in nats, float32 (B, levels); no columns without a ladder.
        logits: that the reconstruction is decoded from, float32 (B, K, H, W), see `outputs`.
        views: `mu` of two views of each page, one vector each, (2, B, D); (2, 0, D) without a
            second view; None: not of a model.
    """

    reconstruction: Tensor
    mu: Tensor
    logvar: Tensor
    ladder: Tensor
    logits: Tensor
    views: Tensor | None = None


class Posterior(NamedTuple):
    """Output of the encoder.

    Attributes:
        mu, logvar: of the latent's shape; 0 below the pages.
        levels: the encoder's maps, for skip connections.
    """

    mu: Tensor
    logvar: Tensor
    levels: list[Level]


class VAE(nn.Module):
    """Variational autoencoder (Kingma and Welling 2014) of pages of one width.

    Attributes:
        stride: widths and padded heights are multiples of it.
        latent_dim: D.
        latent: the latent's shape and operations, see `latents`.
        is_spatial: whether the latent is (B, D, H / 16, W / 16) instead of (B, D).
        size: (rows, width) of the tallest image.
        output: decodes pages, see `outputs`.
        skip_gate: scalar buffer, gate of skip connections in passes without `Noise`.
        space: of the embedding; set for a finished run.
    """

    stride = STRIDES[-1]
    space: EmbeddingSpace | None = None

    def __init__(self, config: ModelConfig, width: int, max_height: int) -> None:
        """Build the model for images `width` wide; grids cover `max_height` rows, rounded up."""
        super().__init__()
        self.config = config
        self.latent_dim = config.latent_dim
        self.latent = resolve_name(LATENTS[config.latent])(config.latent_dim)
        self.is_spatial = self.latent.is_spatial
        padded = -(-max_height // self.stride) * self.stride
        self.size = (padded, width)
        self.encoder = Encoder(config)
        self.linear, self.head, seed = self.latent.build_layers(config, width, padded)
        self.output = build_output(config)
        self.decoder = Decoder(config, seed, self.linear.cell, self.output.channels)
        self.register_buffer("skip_gate", torch.ones(()))

    def forward(
        self,
        images: Tensor,
        heights: Tensor,
        noise: Noise | None,
        shares: Tensor | None = None,
        views: tuple[Tensor, Tensor] | None = None,
    ) -> VAEOutput:
        """Encode, sample `z = mu + exp(logvar / 2) * eps`, decode.

        Args:
            images: (B, 1, H, W) in [0, 1], 0 below the pages; H and W are multiples of `stride`.
            heights: Long (B,), valid rows.
            noise: from `draw_noise`.
            shares: (B,), each page's share of its pair's latent (`mixup`); None: no mixup.
            views: images and heights of a second view of each page, which is encoded, too. With
                `noise` None nothing is decoded, and only `views` of the output counts.
        """
        rows = self._rows(heights, images.shape[2])
        if views is None:
            posterior = self._posterior(images, rows)
            vectors = posterior.mu.new_empty(2, 0, self.latent_dim)
        else:
            posterior, vectors = self._both_views(images, heights, *views)
        mu, logvar, levels = posterior
        if noise is None:
            return VAEOutput(images, mu, logvar, mu.new_empty(len(mu), 0), images, vectors)
        z = reparameterized(mu, logvar, noise.eps)
        if shares is not None:
            z = mix_pairs(z, shares)
        size = tuple(images.shape[2:])
        page, logits, ladder = self._decode(
            z, heights, size, levels, gate=noise.gate, eps=noise.ladder, rows=rows
        )
        return VAEOutput(page, mu, logvar, ladder, logits, vectors)

    def _both_views(
        self, images: Tensor, heights: Tensor, others: Tensor, other_heights: Tensor
    ) -> tuple[Posterior, Tensor]:
        """Encode two views of pages in one batch; return the first's posterior and all vectors.

        Some engines need that a module is called once in a step.
        """
        count, rows = len(images), images.shape[2]
        padded = max(rows, others.shape[2])
        both = torch.cat([fit_rows(images, padded), fit_rows(others, padded)])
        both_heights = torch.cat([heights, other_heights])
        mu, logvar, levels = self.posterior(both, both_heights)
        vectors = self.embed(mu, both_heights).unflatten(0, (2, count))
        own = [
            (fit_rows(x[:count], rows // stride), rows_at(heights, rows // stride, stride))
            for stride, (x, _) in zip(STRIDES, levels, strict=True)
        ]
        latents = [mu[:count], logvar[:count]]
        if self.is_spatial:
            latents = [fit_rows(x, rows // self.stride) for x in latents]
        return Posterior(*latents, own), vectors

    def encode(self, images: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
        """Return `mu` and `logvar` of images (B, 1, H, W), float in [0, 1], of `heights` rows.

        H is padded to a multiple of `stride`, which does not change the result. Raises ValueError
        for any other input, see `checked_images`.
        """
        images = checked_images(images, heights, self.size[1], self.stride)
        mu, logvar, _ = self.posterior(images, heights)
        return mu, logvar

    def posterior(self, images: Tensor, heights: Tensor) -> Posterior:
        """Encode images (B, 1, H, W) for `reconstruct`."""
        return self._posterior(images, self._rows(heights, images.shape[2]))

    def decode(
        self,
        z: Tensor,
        heights: Tensor,
        size: tuple[int, int],
        ladder: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """Decode latents without an encoder to pages (B, 1, H, W), 0 below them, not clipped.

        Args:
            size: (H, W).
            ladder: noise of a ladder's prior, see `Noise`; empty: its means are used. It needs an H
                that is a multiple of `stride`.

        Raises ValueError for any other input, see `checked_latents`.
        """
        padded = (-(-size[0] // self.stride) * self.stride, size[1])
        checked_latents(z, heights, self.latent_shape(padded), size, self.size[1])
        return self.decode_padded(z, heights, padded, ladder)[:, :, : size[0]]

    def decode_padded(
        self,
        z: Tensor,
        heights: Tensor,
        size: tuple[int, int],
        ladder: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """Decode as `decode` does, without its checks; H is a multiple of `stride`.

        For training, whose model may have diverged, and for exports.
        """
        return self._decode(z, heights, size, None, gate=None, eps=ladder)[0]

    def reconstruct(
        self,
        posterior: Posterior,
        heights: Tensor,
        size: tuple[int, int],
        *,
        skips: bool = True,
        shuffle: bool = False,
        eps: Tensor | None = None,
        ladder: tuple[Tensor, ...] = (),
    ) -> VAEOutput:
        """Decode `mu` as in an evaluation, with `skip_gate` as the gate of skip connections.

        Args:
            skips: False: without skip connections; levels of a ladder are their prior's means.
            shuffle: decode the next page's latent with a page's own skip connections, to measure
                how much of the result depends on the latent.
            eps: standard normal noise, to decode a sample of the posterior instead of `mu`.
            ladder: noise of a ladder's levels, see `Noise`; empty: their means are used.
        """
        mu, logvar, levels = posterior
        z = mu if eps is None else reparameterized(mu, logvar, eps)
        z = self.keep_latent(z.roll(1, 0), heights) if shuffle else z
        gate = self.skip_gate.expand(len(mu))
        page, logits, ladder_kl = self._decode(
            z, heights, size, levels if skips else None, gate=gate, eps=ladder
        )
        return VAEOutput(page, mu, logvar, ladder_kl, logits, mu.new_empty(2, 0, self.latent_dim))

    @property
    def starts_from_pca(self) -> bool:
        """Whether the linear path is to be initialised with the PCA of the training pages."""
        return self.config.start == "components" and self.latent.can_start_from_pca

    @property
    def decodes_latents_only(self) -> bool:
        """Whether all that the decoder knows of a page has a KL, so that there is a bound."""
        return not self.decoder.skips or self.decoder.has_ladder

    @property
    def ladder_levels(self) -> int:
        """Number of a ladder's levels; 0 without a ladder."""
        return len(self.ladder_strides)

    @property
    def ladder_strides(self) -> list[int]:
        """Pixels per position of each level of a ladder, from coarse to fine."""
        places = self.decoder.skip_places if self.decoder.has_ladder else []
        return [self.stride >> place for place in places]

    def ladder_shapes(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return the shape of one page's latent at each level, for pages padded to (H, W)."""
        return [
            (level.dimensions, size[0] // stride, size[1] // stride)
            for level, stride in zip(self.decoder.skips, self.ladder_strides, strict=False)
        ]

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of one page's latent for pages padded to (H, W)."""
        return self.latent.shape(size)

    def keep_latent(self, z: Tensor, heights: Tensor) -> Tensor:
        """Set a spatial latent to 0 below the pages; return a vector latent as it is."""
        return self.latent.clear_padding(z, heights)

    def embed(self, z: Tensor, heights: Tensor) -> Tensor:
        """Return one vector per page, (B, D): the latent, or a spatial latent's mean."""
        return self.latent.embed(z, heights)

    @torch.no_grad()
    def embedding(self, images: Tensor, heights: Tensor) -> Tensor:
        """Return the embeddings of pages: float64 (B, D + E + K) of length 1, on the host.

        Arguments as of `encode`. Raises ValueError as `encode`, and ConfigError if the model is not
        that of a finished run, or of an old version.
        """
        if self.space is None:
            raise ConfigError("the run has no statistics of the embedding (unfinished, or old)")
        images = checked_images(images, heights, self.size[1], self.stride)
        mu, _, levels = self.posterior(images, heights)
        features = self.embed(mu, heights), self.structure(images, heights, levels)
        return self.space.vectors(*(part.cpu() for part in features))

    def structure(self, images: Tensor, heights: Tensor, levels: list[Level]) -> Tensor:
        """Describe the boxes of pages: (B, S), see `embedding.page_structure`."""
        return page_structure(images, heights, self.size[0], levels[-1])

    @property
    def structure_sizes(self) -> StructureSizes:
        """Columns of the structure; their sum is S."""
        return structure_sizes(*self.size, SIZES[self.config.size].channels[-1])

    @torch.no_grad()
    def start_from_pca(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """Initialise the linear path with a PCA; see `VectorPath.start_from_pca`."""
        self.linear.start_from_pca(mean, components, deviations)
        self.head.start_logvar(self.config.start_logvar)

    def _rows(self, heights: Tensor, height: int) -> list[Rows]:
        """Return the valid rows of images of `height` rows, and of maps at each of `STRIDES`."""
        return rows_at_strides(heights, height, (1, *STRIDES))

    def _posterior(self, images: Tensor, rows: list[Rows]) -> Posterior:
        levels = self.encoder(images, rows[1:])
        x, last = levels[-1]
        mu, logvar = self.head(x, last).chunk(2, dim=1)
        return Posterior(mu + self.linear.mu(images, last), bounded(logvar), levels)

    def _decode(
        self,
        z: Tensor,
        heights: Tensor,
        size: tuple[int, int],
        levels: list[Level] | None,
        gate: Tensor | None,
        eps: tuple[Tensor, ...] = (),
        rows: list[Rows] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = self._rows(heights, size[0]) if rows is None else rows
        z = self.keep_latent(z, heights)
        # In bf16 a page in [0, 1] would be rounded by up to 0.002, a twelfth of a nesting level.
        with torch.autocast(z.device.type, enabled=False):
            coarse = self.linear.page(widened(z), size[0])
        base, added, ladder = self.decoder(z, coarse, rows, size, levels, gate, eps)
        logits = self.output(base, added)
        return self.output.page(logits, rows[0]), logits, ladder


def draw_noise(
    model: VAE, keys: Tensor, size: tuple[int, int], gate: float, dropout: float
) -> Noise:
    """Draw the noise of a forward pass: a function of each sample's key and the position within it.

    Args:
        keys: Long (B,), of `shards.randomness.sample_keys`.
        size: (H, W) to which the pages are padded.
        gate: of skip connections.
        dropout: share of pages whose gate is 0 instead.
    """
    shape = model.latent_shape(size)
    if len(shape) == 1:
        # Position -1 is the gate's; in one computation with the others.
        bits = random_bits(keys[:, None], torch.arange(-1, shape[0], device=keys.device))
        gate_keys, eps = bits[:, 0], normal_of_bits(bits[:, 1:])
    else:
        gate_keys, eps = random_bits(keys, -1), _standard_normal(keys, shape)
    ladder: tuple[Tensor, ...] = ()
    if model.ladder_levels:
        # Other keys than the latent's: with the same, the levels would repeat the latent's noise.
        ladder = _ladder_noise(model, random_bits(keys, -2), size)
    if len(model.decoder.skips) == 0:
        return Noise(eps, ladder, torch.zeros(len(keys), device=keys.device))
    kept = uniform(gate_keys, 0) >= dropout
    # Samples of the prior would teach the decoder to ignore the levels: a plausible detail in the
    # wrong place costs more than none.
    ladder = tuple(kept[:, None, None, None] * level for level in ladder)
    return Noise(eps, ladder, kept * gate)


def _ladder_noise(model: VAE, keys: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Draw standard normal noise for each level of a ladder, from keys Long (B,)."""
    levels = zip(model.ladder_strides, model.ladder_shapes(size), strict=True)
    return tuple(_standard_normal(random_bits(keys, stride), shape) for stride, shape in levels)


def _standard_normal(keys: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Draw standard normal (B, C, h, w), at positions that do not depend on a page's padding."""
    channels = torch.arange(shape[0], device=keys.device)
    of_channels = random_bits(keys[:, None], channels)[:, :, None, None]
    return normal(of_channels, grid_positions(shape[1], shape[2], keys.device))
