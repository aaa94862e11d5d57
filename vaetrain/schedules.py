"""Schedules of learning rate, loss weights, beta and skip connections: pure functions of the epoch.

They are defined for every epoch from 0 on, beyond the end of training too. This module is imported
with the settings and does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vaetrain.losses.config import BetaConfig, CurriculumConfig, ObjectiveSettings
from vaetrain.losses.terms import TERMS
from vaetrain.losses.weights import Weights
from vaetrain.model.config import SkipConfig
from vaetrain.settings import setting


@dataclass
class LrConfig:
    schedule: str = setting(
        "cosine", "schedule after the warm-up", choices=("constant", "cosine", "onecycle")
    )
    warmup: str = setting(
        "linear",
        "warm-up: linear from 0, or exponential from a thousandth",
        choices=("linear", "exponential"),
    )
    warmup_epochs: float = setting(
        1.0, "epochs of warm-up; onecycle has a warm-up of its own", minimum=0
    )
    cycle_epochs: float | None = setting(
        None,
        "epochs of the first cosine cycle, the last one is fitted to the end; null: one",
        above=0,
    )
    cycle_factor: float = setting(
        1.0, "length of a cycle divided by that of the previous one", minimum=1
    )
    floor: float = setting(1e-6, "learning rate at the end of a cycle", minimum=0)


@dataclass(frozen=True)
class Clock:
    """Conversion of image counts to epochs and steps.

    Attributes:
        epoch_images: images of one epoch, the number of training pages.
        global_batch_size: images of one optimizer step.
        horizon: image count at which training ends, a multiple of the global batch size.
    """

    epoch_images: int
    global_batch_size: int
    horizon: int

    @classmethod
    def of(
        cls, epochs: float, max_images: int | None, global_batch_size: int, epoch_images: int
    ) -> Clock:
        """Build the clock of a training of `epochs`, at most `max_images`, rounded up to a step."""
        images = epochs * epoch_images
        if max_images is not None:
            images = min(images, max_images)
        steps = max(1, math.ceil(images / global_batch_size))
        return cls(epoch_images, global_batch_size, steps * global_batch_size)

    @property
    def epochs(self) -> float:
        """Length of the training in epochs."""
        return self.horizon / self.epoch_images

    def epoch(self, images: int) -> float:
        """Convert an image count to epochs, a float."""
        return images / self.epoch_images

    def steps(self, images: int) -> int:
        """Convert an image count to completed optimizer steps."""
        return images // self.global_batch_size

    def due(self, images: int, every: int) -> bool:
        """Return whether the step that ended at `images` crossed a multiple of `every` images."""
        return images // every > (images - self.global_batch_size) // every


def ramp(epoch: float, length: float) -> float:
    """Rise linearly from 0 at epoch 0 to 1 at epoch `length`, then stay; 1 for a length of 0."""
    return 1.0 if epoch >= length else epoch / length


def weights_at(experiment: ObjectiveSettings, epoch: float, epochs: float) -> Weights:
    """Return the weights at an epoch of a training of `epochs`: curriculum, beta and capacity.

    `TrainingState.weights_at` replaces beta if a controller or a cap sets it.
    """
    beta = experiment.beta
    start = {term.name: getattr(experiment.loss, term.name) for term in TERMS}
    terms = phase_at(experiment.curriculum, start | {"beta": beta.max}, epoch)
    peak = terms.pop("beta")
    capacity = None
    if beta.capacity is not None:
        capacity = beta.capacity * ramp(epoch, beta.capacity_epochs)
    levels = beta.levels * ramp(epoch, beta.levels_warmup_epochs)
    return Weights(terms, peak * beta_share(beta, epoch, epochs), levels, capacity)


def phase_at(
    curriculum: CurriculumConfig, start: dict[str, float], epoch: float
) -> dict[str, float]:
    """Return the weights at an epoch: `start`, changed by all phases that have begun.

    Over `blend_epochs` a phase interpolates linearly from the previous weights to its own. A phase
    that begins during the blend of another continues from the weights at that epoch. A phase at
    epoch 0 has no previous weights and is not blended.
    """
    weights = dict(start)
    ends = [*(phase.epoch for phase in curriculum.phases[1:]), math.inf]
    for phase, end in zip(curriculum.phases, ends, strict=False):
        if epoch < phase.epoch:
            break
        blend = curriculum.blend_epochs if phase.epoch > 0 else 0.0
        share = ramp(min(epoch, end) - phase.epoch, blend)
        for name, before in weights.items():
            target = getattr(phase, name)
            if target is not None:
                weights[name] = before + share * (target - before)
    return weights


def beta_share(config: BetaConfig, epoch: float, epochs: float) -> float:
    """Return beta as a share of its maximum at an epoch of a training of `epochs`.

    two_stage: 0.5 e / w up to epoch w, then 1 - 0.5 exp(-3 p) with p the share of the remaining
    epochs, which is 0.975 at the end. cyclical: Fu et al. 2019, eq. 6-7; 1 after the training.
    controller: 1, the bound of `KLController`.
    """
    if config.schedule == "linear":
        return ramp(epoch, config.warmup_epochs)
    if config.schedule == "two_stage":
        if epoch < config.warmup_epochs:
            return 0.5 * epoch / config.warmup_epochs
        rest = max(epochs - config.warmup_epochs, 0.0)
        return 1.0 - 0.5 * math.exp(-3.0 * ramp(epoch - config.warmup_epochs, rest))
    if config.schedule == "cyclical" and epoch < epochs:
        return min(1.0, (epoch * config.cycles / epochs % 1.0) / config.cycle_ramp)
    return 1.0


def skip_gate_at(config: SkipConfig, kind: str, epoch: float) -> float:
    """Return the gate of skip connections: 0 up to `start_epoch`, then a linear rise to 1.

    The gate of a ladder (`kind`, the value of `model.skips`, is `hierarchical`) is always open: its
    KL keeps it from replacing the latent.
    """
    if kind == "hierarchical":
        return 1.0
    return (
        0.0 if epoch < config.start_epoch else ramp(epoch - config.start_epoch, config.ramp_epochs)
    )


ONE_CYCLE_RISE = 0.3  # share of the training
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 25e4  # shares of the peak
EXPONENTIAL_START = 1e-3  # share of the peak


def lr_at(config: LrConfig, peak: float, epoch: float, epochs: float) -> float:
    """Return the learning rate at an epoch of a training of `epochs`.

    constant and cosine are multiplied by a linear or exponential warm-up. cosine has warm restarts
    (Loshchilov and Hutter 2017, section 3, eq. 5), and cycles grow by a factor that need not be an
    integer. The first cycle starts at epoch 0, during the warm-up, and ends at `cycle_epochs`. The
    last cycle ends with the training, see `_cycle_share`, and stays at its floor after it. onecycle
    (Smith and Topin 2018, with PyTorch's cosines) rises from 1/25 of the peak to the peak in the
    first 0.3 of the training, then falls to 1/250,000 of the peak and stays there.
    """
    share = min(1.0, epoch / epochs)
    if config.schedule == "onecycle":
        if share < ONE_CYCLE_RISE:
            return peak * _cosine(ONE_CYCLE_START, 1.0, share / ONE_CYCLE_RISE)
        return peak * _cosine(1.0, ONE_CYCLE_END, (share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))
    warmup = ramp(epoch, config.warmup_epochs)
    if config.warmup == "exponential":
        warmup = EXPONENTIAL_START ** (1.0 - warmup)
    if config.schedule == "constant":
        return peak * warmup
    if config.cycle_epochs is not None:
        share = _cycle_share(epoch, config.cycle_epochs, config.cycle_factor, epochs)
    return warmup * _cosine(peak, min(config.floor, peak), share)


def _cosine(start: float, end: float, share: float) -> float:
    """Interpolate from `start` to `end` by half a cosine period."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def _cycle_share(epoch: float, length: float, factor: float, epochs: float) -> float:
    """Return the share of an epoch's cycle that is done, in [0, 1].

    A training that ended within a cycle would end at a high learning rate, so the last cycle is
    fitted to the end: shortened if at least half of it fits, else joined to the one before.
    """
    if factor == 1.0:
        last = max(1, math.floor(epochs / length + 0.5)) - 1
        cycle = min(epoch // length, last)
        start, end = cycle * length, (cycle + 1) * length
        is_last = cycle == last
    else:
        # A loop instead of a logarithm, whose rounding misses the restart by one ulp.
        start, end = 0.0, length
        while not (is_last := end + length * factor / 2 > epochs) and epoch >= end:
            length *= factor
            start, end = end, end + length
    if is_last:
        end = epochs
    return min(1.0, (epoch - start) / (end - start))
