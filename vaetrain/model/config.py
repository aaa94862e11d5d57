"""Settings of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaetrain.settings import setting

if TYPE_CHECKING:
    pass


@dataclass
class ModelConfig:
    size: str = setting("tiny", "width and depth", choices=("tiny", "small", "base", "large"))
    blocks: str = setting("resnet", "encoder and decoder blocks", choices=("resnet", "densenet"))
    attention: str = setting("cbam", "attention in every block", choices=("none", "cbam"))
    skips: str = setting(
        "none",
        "what the decoder gets beside the latent: nothing, the encoder's features behind a gate "
        "(section skips), or a ladder of latents with a learned prior",
        choices=("none", "gated", "hierarchical"),
    )
    latent: str = setting(
        "vector",
        "shape of the latent: one vector a page, or one every 16 x 16 pixels",
        choices=("vector", "spatial"),
    )
    latent_dim: int = setting(128, "dimensions of the vector, or of each of them", minimum=1)
    start: str = setting(
        "components",
        "the linear path from page to a vector latent and back: the training pages' principal "
        "components, or random weights",
        choices=("components", "random"),
    )
    start_logvar: float = setting(
        -3.0,
        "log variance of the posterior at a start from components, whose variance is 1",
        minimum=-10,
        maximum=0,
    )
    pyramid: list[int] = setting(
        [1, 2, 4], "bins per side of each pyramid-pooling level", minimum=1, maximum=32
    )
    output: str = setting(
        "linear",
        "what the decoder gives: the page itself, or its logits, as loss.pixel=bce needs",
        choices=("linear", "sigmoid"),
    )


@dataclass
class SkipConfig:
    start_epoch: float = setting(5.0, "epochs in which skips stay shut", minimum=0)
    ramp_epochs: float = setting(5.0, "epochs from shut to open", minimum=0)
    dropout: float = setting(
        0.5, "share of pages decoded from the latent alone in training", minimum=0, maximum=1
    )
