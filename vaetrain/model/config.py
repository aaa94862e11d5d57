"""Settings of the model."""

from __future__ import annotations

from dataclasses import dataclass

from shards.format.layout import MAX_DEPTH
from vaetrain.model.registry import ATTENTION, BLOCKS, LATENTS, OUTPUTS, SIZES, SKIPS
from vaetrain.settings import setting


@dataclass
class ModelConfig:
    size: str = setting("tiny", "width and depth", choices=tuple(SIZES))
    blocks: str = setting("resnet", "blocks of encoder and decoder", choices=tuple(BLOCKS))
    attention: str = setting("cbam", "attention in every block", choices=tuple(ATTENTION))
    skips: str = setting(
        "none",
        "input of the decoder beside the latent. none; gated: the encoder's features through a "
        "gate (section skips); hierarchical: a ladder of latents with a learned prior",
        choices=tuple(SKIPS),
    )
    latent: str = setting(
        "vector",
        "shape of the latent: one vector per page, or one vector per 16 x 16 pixels",
        choices=tuple(LATENTS),
    )
    latent_dim: int = setting(128, "dimensions of a latent vector", minimum=1)
    ladder_channels: list[int] = setting(
        [8, 8, 4, 4],
        "latent dimensions at each position of a ladder's levels, of 16 x 16, 8 x 8, 4 x 4 and "
        "2 x 2 pixels (model.skips=hierarchical); 0: no such level",
        minimum=0,
        maximum=1024,
    )
    start: str = setting(
        "components",
        "initial weights of the linear path between a page and a vector latent: the PCA of the "
        "training pages, or random weights",
        choices=("components", "random"),
    )
    start_logvar: float = setting(
        -3.0,
        "initial log variance of the posterior with model.start=components, where mu has variance "
        "1 over the training pages",
        minimum=-10,
        maximum=0,
    )
    pyramid: list[int] = setting(
        [1, 2, 4], "bins per side of each level of pyramid pooling", minimum=1, maximum=32
    )
    output: str = setting(
        "linear",
        "output of the decoder. linear: the page; sigmoid: the page's logits, as loss.pixel=bce "
        "needs; levels: a distribution over nesting depths at every pixel, as loss.pixel=nll needs",
        choices=tuple(OUTPUTS),
    )
    levels: int = setting(
        20,
        "model.output=levels: number of nesting depths, 0 and up; deeper boxes have the last",
        minimum=2,
        maximum=MAX_DEPTH + 1,
    )
    decode: str = setting(
        "median",
        "model.output=levels: what the distribution of a pixel is decoded to",
        choices=("median", "mean"),
    )


@dataclass
class SkipConfig:
    start_epoch: float = setting(
        5.0, "gated: epochs in which the gate of skip connections stays closed", minimum=0
    )
    ramp_epochs: float = setting(
        5.0, "gated: epochs in which the gate then opens linearly", minimum=0
    )
    dropout: float = setting(
        0.5,
        "share of training pages decoded without skip connections; of a ladder, from the means of "
        "its priors",
        minimum=0,
        maximum=1,
    )
