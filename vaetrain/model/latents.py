"""Shapes of the latent: the layers that produce and read it, and operations on it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from vaetrain.model.config import ModelConfig
from vaetrain.model.decoder import SpatialSeed, VectorSeed
from vaetrain.model.encoder import SpatialHead, VectorHead
from vaetrain.model.linear_path import PatchPath, VectorPath
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.registry import STRIDES

STRIDE = STRIDES[-1]


class LatentLayers(NamedTuple):
    """Layers of a VAE that depend on the latent's shape.

    Attributes:
        linear: path from images to `mu` and from `z` to a coarse page, see `linear_path`.
        head: from the encoder's last map to `mu` and `logvar`.
        seed: from `z` to the decoder's first map.
    """

    linear: nn.Module
    head: nn.Module
    seed: nn.Module


class VectorLatent:
    """One vector per page: latents are (B, D).

    Attributes:
        is_spatial: whether latents are maps.
        can_start_from_pca: whether `LatentLayers.linear` can be initialised with a PCA.
    """

    is_spatial = False
    can_start_from_pca = True

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def build_layers(self, config: ModelConfig, width: int, max_height: int) -> LatentLayers:
        """Build the layers for images `width` wide; `max_height` is a multiple of the stride."""
        grid = (max_height // STRIDE, width // STRIDE)
        return LatentLayers(
            VectorPath(self.dimensions, width, max_height),
            VectorHead(config, grid),
            VectorSeed(config, grid),
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of one page's latent for pages padded to (H, W)."""
        return (self.dimensions,)

    def clear_padding(self, z: Tensor, heights: Tensor) -> Tensor:
        """Set a latent to 0 below the pages of Long (B,) valid rows."""
        return z

    def embed(self, z: Tensor, heights: Tensor) -> Tensor:
        """Return one vector per page, (B, D)."""
        return z


class SpatialLatent:
    """One vector per 16 x 16 pixels: latents are (B, D, H / 16, W / 16), 0 below the pages.

    Attributes and methods as of `VectorLatent`.
    """

    is_spatial = True
    can_start_from_pca = False

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def build_layers(self, config: ModelConfig, width: int, max_height: int) -> LatentLayers:
        """Build the layers for images `width` wide, of any height."""
        return LatentLayers(
            PatchPath(self.dimensions, width), SpatialHead(config), SpatialSeed(config)
        )

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of one page's latent for pages padded to (H, W)."""
        return (self.dimensions, size[0] // STRIDE, size[1] // STRIDE)

    def clear_padding(self, z: Tensor, heights: Tensor) -> Tensor:
        """Set a latent to 0 below the pages of Long (B,) valid rows."""
        return keep(z, rows_at(heights, z.shape[2], STRIDE))

    def embed(self, z: Tensor, heights: Tensor) -> Tensor:
        """Return one vector per page, (B, D): the mean over the page's positions."""
        positions = rows_at(heights, z.shape[2], STRIDE).count * z.shape[3]
        return z.sum(dim=(2, 3)) / positions.clamp(min=1)[:, None]
