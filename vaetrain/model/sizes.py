"""Width and depth of the models that `model.size` offers."""

from __future__ import annotations

from dataclasses import dataclass

STRIDES = (2, 4, 8, 16)  # of the encoder's stages; the decoder uses them in reverse


@dataclass(frozen=True)
class Size:
    """Width and depth of a model.

    Attributes:
        channels: of each stage.
        blocks: in each stage.
        grid: channels of the top-anchored grids.
    """

    channels: tuple[int, int, int, int]
    blocks: int
    grid: int


SIZES = {
    "tiny": Size((16, 32, 64, 96), blocks=1, grid=8),
    "small": Size((32, 64, 128, 192), blocks=2, grid=16),
    "base": Size((64, 128, 256, 512), blocks=3, grid=32),
    "large": Size((128, 256, 512, 1024), blocks=3, grid=32),
}
