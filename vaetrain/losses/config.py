"""Settings of the losses, of beta and of the curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vaetrain.settings import setting


@dataclass
class LossConfig:
    pixel: str = setting(
        "l1",
        "reconstruction loss, mean over pixels",
        choices=("l1", "mse", "charbonnier", "bce"),
    )
    recon: float = setting(1.0, "weight of the reconstruction loss", minimum=0)
    ssim: float = setting(0.1, "weight of 1 - SSIM, mean over a page's windows", minimum=0)
    ms_ssim: float = setting(0.0, "weight of 1 - MS-SSIM", minimum=0)
    gradient: float = setting(
        0.0,
        "weight of the L1 between neighbouring pixels' differences, mean along x plus y",
        minimum=0,
    )
    perceptual: float = setting(
        0.0, "weight of the distance between a frozen network's features", minimum=0
    )
    perceptual_net: str = setting(
        "features",
        "that network: a page encoder, or the backbone of LPIPS",
        choices=("features", "alex", "vgg", "squeeze"),
    )
    perceptual_weights: str | None = setting(
        None,
        "where its weights are; features: a run directory, null: random weights; LPIPS: the "
        "backbone's file, null: torch's cache",
    )
    combine: str = setting(
        "fixed",
        "the weights of all but the KL as they are set, or each also divided by a learned variance",
        choices=("fixed", "learned"),
    )


@dataclass
class BetaConfig:
    schedule: str = setting(
        "linear",
        "how beta goes: constant; linear from 0; two_stage, to half in a line and on towards the "
        "whole exponentially; cyclical; controller, holding the KL at target_kl",
        choices=("constant", "linear", "two_stage", "cyclical", "controller"),
    )
    max: float = setting(1.0, "highest beta", minimum=0)
    warmup_epochs: float = setting(
        10.0, "linear: epochs from beta 0 to beta.max; two_stage: to its half", minimum=0
    )
    cycles: int = setting(4, "cyclical: cycles in the training", minimum=1)
    cycle_ramp: float = setting(
        0.5, "cyclical: share of a cycle in which beta rises", above=0, maximum=1
    )
    target_kl: float = setting(100.0, "controller: the KL to hold, in nats a page", minimum=0)
    proportional: float = setting(0.01, "controller: gain on the last step's KL", minimum=0)
    integral: float = setting(0.0001, "controller: gain on the sum over all steps", minimum=0)
    reduction: str = setting(
        "pixel",
        "what beta multiplies, for each page: its KL in nats over the latent's dimensions, as "
        "their sum, their mean, or the sum divided by the page's pixels (beta 1 is then the "
        "bound itself, per pixel)",
        choices=("sum", "mean", "pixel"),
    )
    free_bits: float = setting(
        0.0, "nats of each page and latent dimension that cost nothing", minimum=0
    )
    capacity: float | None = setting(
        None, "nats a page that the KL is drawn towards, from either side; null: off", minimum=0
    )
    capacity_epochs: float = setting(10.0, "epochs in which the capacity rises from 0", minimum=0)


@dataclass
class Phase:
    epoch: float = setting(0.0, "epoch from which the phase holds", minimum=0)
    recon: float | None = setting(None, "loss.recon from here on", minimum=0)
    ssim: float | None = setting(None, "loss.ssim from here on", minimum=0)
    ms_ssim: float | None = setting(None, "loss.ms_ssim from here on", minimum=0)
    gradient: float | None = setting(None, "loss.gradient from here on", minimum=0)
    perceptual: float | None = setting(None, "loss.perceptual from here on", minimum=0)
    beta: float | None = setting(None, "beta.max from here on", minimum=0)


@dataclass
class CurriculumConfig:
    phases: list[Phase] = setting(
        [],
        "weights that change by epoch: a list of {epoch, and any of recon, ssim, ms_ssim, "
        "gradient, perceptual, beta}; what a phase leaves out stays as it was",
    )
    blend_epochs: float = setting(
        0.0,
        "epochs from one phase's weights to the next's, in a straight line; 0: at once",
        minimum=0,
    )


class ObjectiveSettings(Protocol):
    """The sections of an experiment that define its objective."""

    loss: LossConfig
    beta: BetaConfig
    curriculum: CurriculumConfig
