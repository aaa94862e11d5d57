"""Tables of the model's sizes and exchangeable parts: what the values of settings stand for.

Settings are checked before torch is imported, so classes are named as `module:name` and imported
when a model is built. The choices of the settings are the keys of these tables.

To add a part: write its class with the interface that its table names, and add an entry and a test.
Tests run every combination of the parts.
"""

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

# Blocks of a stage: see `blocks.ResBlock`.
BLOCKS = {
    "resnet": "vaetrain.model.blocks:ResBlock",
    "densenet": "vaetrain.model.blocks:DenseBlock",
}

# Attention at the end of a block: a module of `channels`, called with a map and its `Rows`.
ATTENTION = {
    "none": None,
    "cbam": "vaetrain.model.attention:MaskedCBAM",
}

# Connections from the encoder's maps to the decoder's: see `skips.GatedSkip` and `skips.Ladder`.
SKIPS = {
    "none": None,
    "gated": "vaetrain.model.skips:GatedSkip",
    "hierarchical": "vaetrain.model.skips:Ladder",
}

# Outputs of the decoder: see `outputs.LinearOutput`.
OUTPUTS = {
    "linear": "vaetrain.model.outputs:LinearOutput",
    "sigmoid": "vaetrain.model.outputs:SigmoidOutput",
    "levels": "vaetrain.model.outputs:LevelsOutput",
}

# Shapes of the latent: see `latents.VectorLatent`.
LATENTS = {
    "vector": "vaetrain.model.latents:VectorLatent",
    "spatial": "vaetrain.model.latents:SpatialLatent",
}
