"""The trainer with one thing broken on purpose: `mutant.py MUTATION ARGUMENT...`."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[0] = str(REPO)


def forward_unwrapped() -> None:
    """Forward passes go to the model itself, so that nobody reduces its gradients."""
    from vaetrain.engines.base import Engine

    prepare = Engine.prepare

    def broken(self, model, optimizer, **settings):
        prepare(self, model, optimizer, **settings)
        self.model = self.module

    Engine.prepare = broken


def accumulation_not_averaged() -> None:
    """Each micro batch counts as if it were the whole step."""
    from vaetrain.engines.base import Engine

    def broken(self, losses, global_batch_size):
        self._backward(losses.mean())

    Engine.backward = broken


def ranks_not_averaged() -> None:
    """A loss scaled as for one process, where the engine divides by the number of ranks."""
    from vaetrain.engines.base import Engine

    def broken(self, losses, global_batch_size):
        self._backward(losses.sum() / global_batch_size)

    Engine.backward = broken


def adaptive_weight_local() -> None:
    """Each rank balances the adversarial loss by its own pages alone."""
    from vaetrain.gan.adaptive_weight import GradientBalance

    update = GradientBalance.update
    GradientBalance.update = lambda self, _, applied: update(self, self.squares, applied)


def discriminator_local() -> None:
    """Each rank steps its discriminator with the gradients of its own pages."""
    from vaetrain.engines.base import Engine

    Engine.average_gradients = lambda self, parameters: None


def one_bad_step() -> None:
    """In the third step the last rank's loss is not a number; its gradient is as finite as ever."""
    _spoil_steps(lambda step: step == 3, lambda losses: losses + float("nan"))


def one_bad_gradient() -> None:
    """In the third step the last rank's gradient is not a number; its loss is as finite as ever."""
    _spoil_steps(lambda step: step == 3, lambda losses: losses + (0 * losses).sqrt())


def bad_from_the_third() -> None:
    """From the third step on the last rank's loss is infinite."""
    _spoil_steps(lambda step: step >= 3, lambda losses: losses + float("inf"))


def stuck_reading() -> None:
    """The last rank's sixth batch has to come through a pipe into which nobody writes."""
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
    """The wall clock is another day's whenever it is asked."""
    chance, now = random.Random(0), time.time
    time.time = lambda: now() + 86400 * chance.randint(-1000, 1000)


def no_memory() -> None:
    """In the sixth step the last rank asks for more memory than there is."""
    import torch

    from vaetrain.training.trainer import Trainer

    step = Trainer.step

    def broken(self, batches):
        last = self.engine.rank == self.engine.world_size - 1
        if last and self.images == 5 * self.batching.global_batch:
            torch.empty(1 << 60, device=self.engine.device)
        step(self, batches)

    Trainer.step = broken


def _spoil_steps(spoils: Callable[[int], bool], how: Callable[[Any], Any]) -> None:
    from vaetrain.training.trainer import Trainer

    forward_backward = Trainer.forward_backward

    def broken(self, batch, weights, gate):
        step = self.images // self.batching.global_batch + 1
        objective = self.objective
        if spoils(step) and self.engine.rank == self.engine.world_size - 1:
            self.objective = lambda *given: _spoilt(objective(*given), how)
        parts = forward_backward(self, batch, weights, gate)
        self.objective = objective
        return parts

    Trainer.forward_backward = broken


def _spoilt(told: tuple, how: Callable[[Any], Any]) -> tuple:
    losses, parts = told
    losses = how(losses)
    return losses, parts | {"loss": losses.detach()}


if __name__ == "__main__":
    mutation = globals()[sys.argv.pop(1)]
    from vaetrain import train

    mutation()
    train.main()
