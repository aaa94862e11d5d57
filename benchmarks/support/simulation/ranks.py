"""Ranks of a training that are threads, and a model that counts how often it saw a sample."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.support.simulated_ranks import SimulatedRank
from vaetrain.artifacts.checkpoint import Checkpoint
from vaetrain.engines.base import AVERAGE, WEIGHT, Engine
from vaetrain.engines.optimizers import MOMENTS, STEP
from vaetrain.engines.slices import even_bounds

RUNNING = 2  # ranks at a time; one may wait for the network
FACTORS = {WEIGHT: 1.0, AVERAGE: 2.0, MOMENTS[0]: 3.0, MOMENTS[1]: 4.0}


class RankEnded(Exception):
    """The heartbeat would have ended this rank's process."""


class Meeting:
    """Collective of ranks that are threads: all give a value, and get the values of all.

    Only `RUNNING` ranks run at a time; a rank that begins to wait wakes the next one. Hundreds of
    threads that wait for Python's interpreter would take most of the time for themselves.
    """

    def __init__(self, world_size: int) -> None:
        self._lock = threading.Lock()
        self._wake = [threading.Event() for _ in range(world_size)]
        self._ready: deque[int] = deque()
        self._is_waiting = [False] * world_size
        self._running = self._arrived = self._round = 0
        self._values: list[Any] = [None] * world_size
        self._result: list[Any] = []
        self._is_aborted = False

    @contextlib.contextmanager
    def running(self, rank: int) -> Iterator[None]:
        """Run the thread of a rank within the context."""
        with self._lock:
            self._wait(rank)
            self._make_ready(rank)
        self._wake[rank].wait()
        try:
            yield
        finally:
            with self._lock:
                self._run_next()

    def exchange(self, rank: int, value: Any, heartbeat: SimulatedRank | None) -> list[Any]:
        """Return the values of all ranks in order; raises RankEnded if the heartbeat ends first.

        Also after `abort`.
        """
        with self._lock:
            number = self._round
            self._wait(rank)
            self._values[rank] = value
            self._arrived += 1
            if self._arrived == len(self._values):
                self._result, self._values = self._values, [None] * len(self._values)
                self._arrived, self._round = 0, number + 1
                for each in range(len(self._values)):
                    self._make_ready(each)
            if self._is_aborted or (heartbeat is not None and heartbeat.is_over):
                self._make_ready(rank)
            self._run_next()
        self._wake[rank].wait()
        if self._round == number:
            raise RankEnded(heartbeat.failure if heartbeat else "another rank has failed")
        return self._result  # the next round needs this rank

    def wake(self, rank: int) -> None:
        """Let a rank fail if it waits for others."""
        with self._lock:
            self._make_ready(rank)

    def abort(self) -> None:
        """Let all ranks fail that wait, or will."""
        self._is_aborted = True
        for rank in range(len(self._wake)):
            self.wake(rank)

    def _wait(self, rank: int) -> None:
        self._is_waiting[rank] = True
        self._wake[rank].clear()

    def _make_ready(self, rank: int) -> None:
        if not self._is_waiting[rank]:
            return
        self._is_waiting[rank] = False
        if self._running < RUNNING:
            self._running += 1
            self._wake[rank].set()
        else:
            self._ready.append(rank)

    def _run_next(self) -> None:
        """Let the next rank run, as one has ended or waits."""
        if self._ready:
            self._wake[self._ready.popleft()].set()
        else:
            self._running -= 1


class CountingEngine(Engine):
    """Engine of one rank, which holds a slice of the model as under ZeRO-3 or FSDP2.

    The model has a number for each sample of the data: how often it was trained on. EMA and moments
    are multiples of it.
    """

    heartbeat: SimulatedRank | None = None

    def __init__(self, rank: int, world_size: int, per_machine: int, meeting: Meeting) -> None:
        self.rank, self.world_size, self.is_main = rank, world_size, rank == 0
        self.device, self.timeout = torch.device("cpu"), 600.0
        self.per_machine, self.meeting = per_machine, meeting

    @property
    def machine(self) -> range:
        """See `Collectives.machine`."""
        first = self.rank - self.rank % self.per_machine
        return range(first, first + self.per_machine)

    def create(self, samples: int) -> None:
        """Create the model for this number of samples; it has seen none."""
        self.module = nn.Module()
        self.module.seen = nn.Parameter(torch.empty(samples, device="meta"))
        self.start, self.stop = self._bounds(self.module.seen)[self.rank :][:2]
        self.state = {kind: torch.zeros(self.stop - self.start) for kind in FACTORS}
        self.steps = torch.zeros(())

    def train(self, ids: np.ndarray) -> list[np.ndarray]:
        """Take a step on the samples of all ranks; return the sample ids of each rank."""
        every = self.exchange(ids)
        own = np.concatenate(every) - self.start
        own = own[(own >= 0) & (own < self.stop - self.start)]
        counts = torch.from_numpy(np.bincount(own, minlength=self.stop - self.start)).float()
        for kind, values in self.state.items():
            values += FACTORS[kind] * counts
        self.steps += 1
        return every

    def load(self, saved: Checkpoint) -> None:
        """Read this rank's slices of a checkpoint."""
        self.scatter(WEIGHT, saved.weights)
        self.scatter(AVERAGE, saved.average)
        self.load_optimizer_state(saved.optimizer)

    def exchange(self, value: Any) -> list[Any]:
        """Return the values of all ranks. Collective."""
        return self.meeting.exchange(self.rank, value, self.heartbeat)

    def broadcast_object(self, value: Any) -> Any:
        """See `Collectives.broadcast_object`."""
        self.mark_progress("waiting for the main process")
        return self.exchange(value)[0]

    def first_message(self, message: str | None) -> str | None:
        """See `Collectives.first_message`."""
        return next((each for each in self.exchange(message) if each is not None), None)

    def sum(self, values: Tensor) -> Tensor:
        """See `Collectives.sum`."""
        return torch.stack(self.exchange(values)).sum(dim=0)

    def slices(self, kind: str) -> list[Tensor]:
        """See `Engine.slices`."""
        return [self.steps if kind == STEP else self.state[kind]]

    def _bounds(self, parameter: nn.Parameter) -> list[int]:
        return even_bounds(parameter.numel(), self.world_size)

    def _read_slice(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return self.state[kind]

    def _write_slice(self, parameter: nn.Parameter, kind: str, values: Tensor) -> None:
        self.state[kind].copy_(values)

    def _masters(self) -> list[Tensor]:
        return [self.state[WEIGHT]]

    # Of a real step, which is not simulated.

    def _distribute(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int
    ) -> None:
        raise NotImplementedError

    def micro_batch(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """See `Engine.micro_batch`."""
        return contextlib.nullcontext()

    def _backward(self, loss: Tensor) -> None:
        raise NotImplementedError

    def _step(self) -> Tensor:
        raise NotImplementedError


def times_trained(saved: Checkpoint) -> np.ndarray:
    """Return how often each sample was trained on; raises ValueError if the kinds disagree."""
    seen = saved.weights["seen"]
    moments = {kind: saved.optimizer[f"{kind}.seen"] for kind in MOMENTS}
    for kind, values in {AVERAGE: saved.average["seen"], **moments}.items():
        if not torch.equal(values, FACTORS[kind] * seen):
            raise ValueError(f"{kind} is not {FACTORS[kind]:g} times the weights")
    return seen.numpy()
