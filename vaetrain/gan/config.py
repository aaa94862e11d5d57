"""Settings of the discriminator and the GAN loss."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vaetrain.schedules import LrConfig
from vaetrain.settings import setting


@dataclass
class GanConfig:
    enabled: bool = setting(False, "train against a discriminator: a VAE-GAN")
    discriminator: str = setting(
        "patch",
        "light: two convolutions and one logit per page; patch: PatchGAN with spectral norm",
        choices=("light", "patch"),
    )
    channels: int = setting(32, "channels of the discriminator's first layer", minimum=1)
    input_scale: float = setting(
        1.0,
        "what pages are multiplied by before the discriminator sees them: 40 makes a level of "
        "nesting 1, and faint differences large beside its biases",
        above=0,
    )
    loss: str = setting(
        "hinge", "the game's loss", choices=("hinge", "nonsaturating", "leastsquares")
    )
    weight: float = setting(
        0.5,
        "weight of the adversarial loss, mean over a page's logits; with gan.adaptive, of its "
        "gradient at the reconstruction, in units of the reconstruction losses' gradient there",
        minimum=0,
    )
    adaptive: bool = setting(True, "hold the two gradients in proportion (Esser et al. 2021)")
    adaptive_max: float = setting(1e4, "bound of the adaptive weight", above=0)
    feature_matching: float = setting(
        0.0,
        "weight of the mean squared difference of the discriminator's features, mean over layers "
        "and over a page's places and channels",
        minimum=0,
    )
    regularizer: str = setting(
        "none",
        "of the discriminator: r1 (gradient at the original pages) or lecam (moving means)",
        choices=("none", "r1", "lecam"),
    )
    regularizer_weight: float = setting(
        1.0,
        "its weight: of |gradient|^2 / 2 summed over a page's pixels (r1), or of squares (lecam)",
        minimum=0,
    )
    start_epoch: float = setting(5.0, "epoch from which the discriminator trains", minimum=0)
    warmup_epochs: float = setting(
        1.0, "epochs it then trains on its own, before it counts for the VAE", minimum=0
    )
    updates: float = setting(
        1.0, "its optimizer steps per step of the VAE; 0.5: one every second step", above=0
    )
    lr: float = setting(2e-4, "highest learning rate of its Adam", above=0)
    beta1: float = setting(0.5, "decay of the first moment", minimum=0, maximum=0.9999)
    beta2: float = setting(0.9, "decay of the second moment", minimum=0, maximum=0.999999)
    clip_norm: float = setting(1.0, "global norm its gradients are clipped to; 0: off", minimum=0)
    schedule: LrConfig = dataclasses.field(default_factory=LrConfig)
