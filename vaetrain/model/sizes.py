"""How wide and deep a model is."""

from __future__ import annotations

from dataclasses import dataclass

STRIDES = (2, 4, 8, 16)  # of the encoder's stages; the decoder goes the same way back


@dataclass(frozen=True)
class Size:
    """Channels of the stages, blocks in each, and channels of the top-anchored grids."""

    channels: tuple[int, int, int, int]
    blocks: int
    grid: int


SIZES = {
    "tiny": Size((16, 32, 64, 96), blocks=1, grid=8),
    "small": Size((32, 64, 128, 192), blocks=2, grid=16),
    "base": Size((64, 128, 256, 512), blocks=3, grid=32),
    "large": Size((128, 256, 512, 1024), blocks=3, grid=32),
}
