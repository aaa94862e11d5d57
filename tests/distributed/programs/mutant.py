"""The trainer with one fault injected: `mutant.py MUTATION ARGUMENT...`."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[3]
sys.path[0] = str(REPO)


def forward_unwrapped() -> None:
    """Forward passes bypass the engine's wrapper, so that gradients are not reduced."""
    from vaetrain.engines.base import Engine

    prepare = Engine.prepare

    def broken(self, model, optimizer, **settings):
        prepare(self, model, optimizer, **settings)
        self.model = self.module

    Engine.prepare = broken


def accumulation_not_averaged() -> None:
    """Each micro batch is weighted as if it were the whole global batch."""
    from vaetrain.engines.base import Engine

    def broken(self, losses, global_batch_size):
        self._backward(losses.mean())

    Engine.backward = broken


def ranks_not_averaged() -> None:
    """Losses are scaled for one process, although the engine divides by the number of ranks."""
    from vaetrain.engines.base import Engine

    def broken(self, losses, global_batch_size):
        self._backward(losses.sum() / global_batch_size)

    Engine.backward = broken


def adaptive_weight_local() -> None:
    """The adaptive weight of a rank is computed from the rank's own pages only."""
    from vaetrain.gan.adaptive_weight import GradientBalance

    update = GradientBalance.update
    GradientBalance.update = lambda self, _, applied: update(self, self.squares, applied)


def discriminator_local() -> None:
    """The discriminator's gradients are not averaged over ranks."""
    from vaetrain.engines.base import Engine

    Engine.average_gradients = lambda self, parameters: None


def one_bad_step() -> None:
    """In the third step the last rank's loss is NaN; its gradient is finite."""
    _change_losses(lambda step: step == 3, lambda losses: losses + float("nan"))


def one_bad_gradient() -> None:
    """In the third step the last rank's gradient is NaN; its loss is finite."""
    _change_losses(lambda step: step == 3, lambda losses: losses + (0 * losses).sqrt())


def bad_from_the_third() -> None:
    """From the third step on the last rank's loss is infinite."""
    _change_losses(lambda step: step >= 3, lambda losses: losses + float("inf"))


def hung_in_reading() -> None:
    """The last rank's sixth batch blocks on a pipe that has no writer."""
    from vaetrain.data.loading import TrainingData

    training_batches = TrainingData.training_batches

    def broken(self, batching, steps):
        for number, batch in enumerate(training_batches(self, batching, steps)):
            if number == 5 and self.engine.rank == self.engine.world_size - 1:
                pipe = Path(tempfile.mkdtemp()) / "pipe"
                os.mkfifo(pipe)
                pipe.read_bytes()
            yield batch

    TrainingData.training_batches = broken


def clock_jumps() -> None:
    """Every value of the wall clock is wrong by up to 1000 days."""
    rng, now = random.Random(0), time.time
    time.time = lambda: now() + 86400 * rng.randint(-1000, 1000)


def no_memory() -> None:
    """In the sixth step the last rank allocates more memory than there is."""
    import torch

    from vaetrain.training.trainer import Trainer

    step = Trainer.step

    def broken(self, batches):
        run = self.parts
        is_last = run.engine.rank == run.engine.world_size - 1
        if is_last and run.images == 5 * run.batching.global_batch:
            torch.empty(1 << 60, device=run.engine.device)
        step(self, batches)

    Trainer.step = broken


def _change_losses(is_changed: Callable[[int], bool], change: Callable[[Any], Any]) -> None:
    """Change the losses that the last rank's objective returns in some steps."""
    from vaetrain.training.trainer import Trainer

    forward_backward = Trainer.forward_backward

    def broken(self, batch, *given):
        run = self.parts
        step = run.images // run.batching.global_batch + 1
        objective = run.forward.objective
        if is_changed(step) and run.engine.rank == run.engine.world_size - 1:
            run.forward.objective = lambda *values: _with_losses(objective(*values), change)
        parts = forward_backward(self, batch, *given)
        run.forward.objective = objective
        return parts

    Trainer.forward_backward = broken


def _with_losses(result: tuple, change: Callable[[Any], Any]) -> tuple:
    losses, parts = result
    losses = change(losses)
    return losses, parts | {"loss": losses.detach()}


if __name__ == "__main__":
    mutation = globals()[sys.argv.pop(1)]
    from vaetrain import train

    mutation()
    train.main()
