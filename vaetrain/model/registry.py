"""Tables of the model's exchangeable parts: the value of a setting and the class it stands for.

Settings are checked before torch is imported, so classes are named as `module:name` and imported
when a model is built. The choices of the settings are the keys of these tables.

To add a part: write its class with the interface that its table names, and add an entry and a test.
Tests run every combination of the parts.
"""

from __future__ import annotations

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

# Shapes of the latent: see `latents.VectorLatent`.
LATENTS = {
    "vector": "vaetrain.model.latents:VectorLatent",
    "spatial": "vaetrain.model.latents:SpatialLatent",
}
