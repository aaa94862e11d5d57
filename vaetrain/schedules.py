"""Schedules: pure functions of the clock, defined before, during and for ever after training.

Beside each stands the section of settings that it follows; torch is not imported for them.
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
        "cosine", "shape after warm-up", choices=("constant", "cosine", "onecycle")
    )
    warmup: str = setting(
        "linear", "warm-up from 0, or from a thousandth", choices=("linear", "exponential")
    )
    warmup_epochs: float = setting(
        1.0, "epochs of warm-up; onecycle has its own instead", minimum=0
    )
    cycle_epochs: float | None = setting(
        None, "epochs of the first cosine cycle; null: one cycle to the end of training", above=0
    )
    cycle_factor: float = setting(1.0, "each cycle is so many times the last", minimum=1)
    floor: float = setting(1e-6, "lowest learning rate of a cycle", minimum=0)


@dataclass(frozen=True)
class Clock:
    """What turns an image count into the units people write schedules in.

    Attributes:
        epoch_images: training pages, the images of one epoch.
        global_batch_size: images of one optimizer step.
        horizon: images at which training ends, a whole number of steps.
    """

    epoch_images: int
    global_batch_size: int
    horizon: int

    @classmethod
    def of(
        cls, epochs: float, max_images: int | None, global_batch_size: int, epoch_images: int
    ) -> Clock:
        """The clock of a training of `epochs`, but at most `max_images`, rounded up to a step."""
        wanted = epochs * epoch_images
        if max_images is not None:
            wanted = min(wanted, max_images)
        steps = max(1, math.ceil(wanted / global_batch_size))
        return cls(epoch_images, global_batch_size, steps * global_batch_size)

    @property
    def epochs(self) -> float:
        """The length of training in epochs."""
        return self.horizon / self.epoch_images

    def epoch(self, images: int) -> float:
        """Epochs seen after `images` images, a fraction."""
        return images / self.epoch_images

    def steps(self, images: int) -> int:
        """Optimizer steps taken after `images` images."""
        return images // self.global_batch_size

    def due(self, images: int, every: int) -> bool:
        """Whether the step that ended at `images` crossed a multiple of `every` images."""
        return images // every > (images - self.global_batch_size) // every


def ramp(epoch: float, length: float) -> float:
    """0 at epoch 0, 1 from epoch `length` on, straight in between; 1 for a length of 0."""
    return 1.0 if epoch >= length else epoch / length


def weights_at(experiment: ObjectiveSettings, epoch: float, epochs: float) -> Weights:
    """The weights at an epoch of a training that lasts `epochs`: curriculum, beta and capacity."""
    beta = experiment.beta
    start = {term.name: getattr(experiment.loss, term.name) for term in TERMS}
    terms = phase_at(experiment.curriculum, start | {"beta": beta.max}, epoch)
    peak = terms.pop("beta")
    capacity = None
    if beta.capacity is not None:
        capacity = beta.capacity * ramp(epoch, beta.capacity_epochs)
    return Weights(terms, peak * beta_share(beta, epoch, epochs), capacity)


def phase_at(
    curriculum: CurriculumConfig, start: dict[str, float], epoch: float
) -> dict[str, float]:
    """The weights `start` after all phases that have begun by an epoch.

    A phase moves from what held before it to its own weights in a straight line over
    `blend_epochs`; one that begins while another is still moving goes on from there, and one
    that begins with the training has nothing to move from.
    """
    now = dict(start)
    starts = [*(phase.epoch for phase in curriculum.phases), math.inf]
    for phase, until in zip(curriculum.phases, starts[1:], strict=True):
        if epoch < phase.epoch:
            break
        blend = curriculum.blend_epochs if phase.epoch > 0 else 0.0
        share = ramp(min(epoch, until) - phase.epoch, blend)
        for term, before in now.items():
            wanted = getattr(phase, term)
            if wanted is not None:
                now[term] = before + share * (wanted - before)
    return now


def beta_share(config: BetaConfig, epoch: float, epochs: float) -> float:
    """The share of its maximum that beta has at an epoch of a training that lasts `epochs`.

    two_stage: 0.5 e / w up to the epoch w, then 1 - 0.5 exp(-3 p), p the share of the remaining
    epochs: 0.975 at the end. cyclical: Fu et al. 2019, eq. 6-7, the last cycle's end for ever
    after. controller: all of it; see `controller.KLController`.
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


def skip_gate_at(config: SkipConfig, epoch: float) -> float:
    """How far skips are open at an epoch: 0 to `start_epoch`, then in a line to 1."""
    return (
        0.0 if epoch < config.start_epoch else ramp(epoch - config.start_epoch, config.ramp_epochs)
    )


ONE_CYCLE_RISE = 0.3  # of the training
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 25e4  # of the peak
EXPONENTIAL_START = 1e-3  # of the peak


def lr_at(config: LrConfig, peak: float, epoch: float, epochs: float) -> float:
    """The learning rate at an epoch of a training that lasts `epochs`.

    A linear or exponential warm-up, then a constant, or cosine with warm restarts (Loshchilov and
    Hutter 2017, section 3, eq. 5) whose cycles grow by a factor that may be a fraction. The
    cosine's own time starts at epoch 0, below the warm-up, so that cycles end where the setting
    says. Past its end a single cycle stays at its floor. onecycle (Smith and Topin 2018, with
    PyTorch's cosines): from a 25th of the peak up to it in the first 0.3 of the training, then
    down to a 250,000th, where it stays.
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
        share = _share_of_cycle(epoch, config.cycle_epochs, config.cycle_factor)
    return warmup * _cosine(peak, min(config.floor, peak), share)


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from one value to another."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def _share_of_cycle(epoch: float, length: float, factor: float) -> float:
    """How far into its cycle an epoch is, in [0, 1)."""
    if factor == 1.0:
        return (epoch / length) % 1.0
    # Counted up rather than by a logarithm, whose rounding misses the restart by one ulp.
    start = 0.0
    while epoch >= start + length:
        start += length
        length *= factor
    return (epoch - start) / length
