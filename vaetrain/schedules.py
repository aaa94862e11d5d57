"""Schedules: pure functions of the clock, defined before, during and for ever after training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vaetrain.config import BetaConfig, Experiment, LrConfig


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
    def of(cls, experiment: Experiment, epoch_images: int) -> Clock:
        """The clock of an experiment on this many training pages."""
        train = experiment.train
        wanted = train.epochs * epoch_images
        if train.max_images is not None:
            wanted = min(wanted, train.max_images)
        steps = max(1, math.ceil(wanted / train.global_batch_size))
        return cls(epoch_images, train.global_batch_size, steps * train.global_batch_size)

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


def beta_at(config: BetaConfig, epoch: float) -> float:
    """The weight of the KL at an epoch."""
    if config.schedule == "constant":
        return config.max
    return config.max * ramp(epoch, config.warmup_epochs)


def lr_at(config: LrConfig, peak: float, epoch: float, epochs: float) -> float:
    """The learning rate at an epoch of a training that lasts `epochs`.

    Linear warm-up, then a constant, or cosine with warm restarts (Loshchilov and Hutter 2017,
    section 3, eq. 5) whose cycles grow by a factor that may be a fraction. The cosine's own time
    starts at epoch 0, below the warm-up, so that cycles end where the setting says. Past its end
    a single cycle stays at its floor.
    """
    warmup = ramp(epoch, config.warmup_epochs)
    if config.schedule == "constant":
        return peak * warmup
    if config.cycle_epochs is None:
        share = min(1.0, epoch / epochs)
    else:
        share = _share_of_cycle(epoch, config.cycle_epochs, config.cycle_factor)
    floor = min(config.floor, peak)
    return warmup * (floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * share)))


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
