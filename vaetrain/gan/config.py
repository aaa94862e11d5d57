"""Settings of the discriminator and the GAN loss."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vaetrain.gan.registry import DISCRIMINATORS, LOSSES, NO_REGULARIZER, REGULARIZERS, summaries
from vaetrain.schedules import LrConfig
from vaetrain.settings import setting


@dataclass
class GanConfig:
    enabled: bool = setting(False, "train against a discriminator: a VAE-GAN")
    discriminator: str = setting("patch", summaries(DISCRIMINATORS), choices=tuple(DISCRIMINATORS))
    channels: int = setting(32, "channels of the discriminator's first layer", minimum=1)
    input_scale: float = setting(
        1.0,
        "factor on the pages at the discriminator's input; 40 makes a level of nesting 1, so that "
        "faint differences are large beside its biases",
        above=0,
    )
    loss: str = setting("hinge", f"GAN loss; {summaries(LOSSES)}", choices=tuple(LOSSES))
    weight: float = setting(
        0.5,
        "weight of the generator loss, the mean over a page's logits; with gan.adaptive, ratio of "
        "its gradient at the reconstruction to the gradient of the reconstruction losses there",
        minimum=0,
    )
    adaptive: bool = setting(
        True, "hold the ratio of the two gradients constant (Esser et al. 2021)"
    )
    adaptive_max: float = setting(1e4, "upper bound of the adaptive weight", above=0)
    feature_matching: float = setting(
        0.0,
        "weight of the mean squared difference of the discriminator's features, mean over layers, "
        "positions and channels",
        minimum=0,
    )
    regularizer: str = setting(
        NO_REGULARIZER,
        f"regularizer of the discriminator; {summaries(REGULARIZERS)}",
        choices=(NO_REGULARIZER, *REGULARIZERS),
    )
    regularizer_weight: float = setting(
        1.0,
        "weight of the regularizer: of |gradient|^2 / 2 summed over a page's pixels (r1), or of "
        "squared distances (lecam)",
        minimum=0,
    )
    start_epoch: float = setting(5.0, "epoch from which the discriminator trains", minimum=0)
    warmup_epochs: float = setting(
        1.0,
        "epochs in which only the discriminator trains, before it enters the VAE's loss",
        minimum=0,
    )
    updates: float = setting(
        1.0, "discriminator steps per step of the VAE; 0.5: one every second step", above=0
    )
    lr: float = setting(2e-4, "highest learning rate of the discriminator's Adam", above=0)
    beta1: float = setting(0.5, "decay of the first moment", minimum=0, maximum=0.9999)
    beta2: float = setting(0.9, "decay of the second moment", minimum=0, maximum=0.999999)
    clip_norm: float = setting(
        1.0, "global norm that the discriminator's gradients are clipped to; 0: off", minimum=0
    )
    schedule: LrConfig = dataclasses.field(default_factory=LrConfig)
