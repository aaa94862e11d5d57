"""Ranks that are threads of one process, with different tensors and without a process group."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from vaetrain.engines.collectives import Collectives


class ThreadRanks(Collectives):
    """Collectives of one of several ranks that are threads of this process.

    Attributes:
        received: bytes of the rows that this rank has gathered.
    """

    heartbeat, timeout = None, 60.0
    device = torch.device("cpu")

    def __init__(self, rank: int, values: list[Any], barrier: Barrier) -> None:
        self.rank, self.world_size, self.is_main = rank, len(values), rank == 0
        self.values, self.barrier, self.received = values, barrier, 0

    def _exchange(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait(60)
        values = list(self.values)
        self.barrier.wait(60)
        return values

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self._exchange(values)).sum(dim=0)

    def broadcast_object(self, value: Any) -> Any:
        return self._exchange(value)[0]

    def first_message(self, message: str | None) -> str | None:
        return next((each for each in self._exchange(message) if each is not None), None)

    def gather_ragged(self, rows: Tensor) -> Tensor:
        rows = torch.cat(self._exchange(rows))
        self.received += rows.nbytes
        return rows

    def gather_to_main(self, rows: Tensor) -> Tensor | None:
        parts = self._exchange(rows)
        if not self.is_main:
            return None
        rows = torch.cat(parts)
        self.received += rows.nbytes
        return rows


def run_ranks(count: int, function: Callable[[ThreadRanks], Any]) -> list[Any]:
    """Call a function on each of `count` ranks; return the results in order of rank."""
    values, barrier = [None] * count, Barrier(count)
    ranks = [ThreadRanks(rank, values, barrier) for rank in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, ranks))
