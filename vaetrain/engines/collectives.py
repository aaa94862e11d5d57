"""Collective operations over the ranks of a training, the log, and the end of the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from shards.cli import print_line
from shards.errors import UserError
from shards.lifetime import run_exit_actions
from vaetrain.engines.crash import flush_output
from vaetrain.engines.heartbeat import Heartbeat
from vaetrain.engines.launching.rank_variables import read_ranks
from vaetrain.settings import ConfigError


class Collectives:
    """Operations of one rank on the process group; without a group, those of a single process.

    Attributes:
        rank, world_size: this process's number, and the number of processes.
        is_main: whether this is the main process, rank 0.
        heartbeat: detects dead and hung ranks; None with one process.
        timeout: seconds that ranks wait for a rank, or a rank for a batch, without progress.
        device: the device of this rank.
    """

    rank: int
    world_size: int
    is_main: bool
    heartbeat: Heartbeat | None
    timeout: float
    device: torch.device

    @property
    def machine(self) -> range:
        """The ranks of this rank's machine."""
        ranks = read_ranks(os.environ)
        first = self.rank - ranks.local_rank
        return range(first, first + ranks.local_world_size)

    def log(self, message: str) -> None:
        """Print one line of the log; on the main process only."""
        if self.is_main:
            print_line(message)

    def mark_progress(self, place: str) -> None:
        """Record where the training is; see `Heartbeat.mark_progress`."""
        if self.heartbeat is not None:
            self.heartbeat.mark_progress(place)

    def on_main(
        self, action: Callable[[], None], error_type: type[UserError] = ConfigError
    ) -> None:
        """Run an action on the main process while the other ranks wait. Collective.

        If it raises UserError, all ranks raise `error_type` with the same message.
        """
        message: str | None = None
        if self.is_main:
            try:
                action()
            except UserError as error:
                message = str(error)
        message = self.broadcast_object(message)
        if message is not None:
            raise error_type(message)

    def broadcast_object(self, value: Any) -> Any:
        """Return the main process's value, a small object that can be pickled. Collective."""
        self.mark_progress("waiting for the main process")
        values = [value]
        if dist.is_initialized():
            dist.broadcast_object_list(values)
        return values[0]

    def tell_progress(self, place: str | None) -> None:
        """Tell the ranks in `follow_main` where the main process is; None: it is done.

        To be called within the timeout. All ranks then mark this progress, see `mark_progress`.
        """
        self.broadcast_object(place)
        if place is not None:
            self.mark_progress(place)

    def follow_main(self) -> None:
        """Wait until the main process is done with work of its own, however long it takes.

        Without this, a rank that waits longer than the timeout is taken for a hung one.
        """
        while (place := self.broadcast_object(None)) is not None:
            self.mark_progress(place)

    def first_message(self, message: str | None) -> str | None:
        """Return the message of the lowest rank that has one; None if none has. Collective."""
        messages = [message]
        if dist.is_initialized():
            messages = [None] * self.world_size
            dist.all_gather_object(messages, message)
        return next((each for each in messages if each is not None), None)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks, on all of them. Collective."""
        if dist.is_initialized():
            values = values.clone()
            dist.all_reduce(values)
        return values

    def require_equal(self, number: int, message: str) -> None:
        """Raise ConfigError with a message, on all ranks, if a number differs. Collective."""
        own = torch.tensor(number, device=self.device)
        if int(self.sum((own != self.broadcast(own.clone())).long())):
            raise ConfigError(message)

    def broadcast(self, values: Tensor) -> Tensor:
        """Return the main process's values, of the same shape on all ranks. Collective."""
        if dist.is_initialized():
            dist.broadcast(values, src=0)
        return values

    def gather_ragged(self, rows: Tensor) -> Tensor:
        """Return the rows (N, K) of all ranks, in order of rank; N may differ. Collective."""
        if not dist.is_initialized():
            return rows
        padded = self._padded(rows)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return _unpadded(parts)

    def gather_equal(self, rows: Tensor) -> Tensor:
        """Return the rows (N, K) of all ranks, in order of rank; N is equal. Collective.

        Unlike `gather_ragged` it does not synchronise with the device.
        """
        if not dist.is_initialized():
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def gather_to_main(self, rows: Tensor) -> Tensor | None:
        """Return the rows (N, K) of all ranks, in order of rank, on the main process. Collective.

        N may differ. The other ranks get None and no memory is allocated there.
        """
        if not dist.is_initialized():
            return rows
        padded = self._padded(rows)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)] if self.is_main else None
        dist.gather(padded, parts, dst=0)
        return None if parts is None else _unpadded(parts)

    def _padded(self, rows: Tensor) -> Tensor:
        """Pad rows to the longest rank's number; the first column is 1 for rows. Collective."""
        longest = torch.tensor(len(rows), device=self.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        padded = rows.new_zeros(int(longest), 1 + rows.shape[1])
        padded[: len(rows), 0] = 1
        padded[: len(rows), 1:] = rows
        return padded

    def shut_down(self, status: int) -> NoReturn:
        """Destroy the process group, flush the output and end this process. Collective.

        Python's own exit is skipped: on a busy machine it sometimes aborted a process that had
        succeeded, in threads of the process group.
        """
        run_exit_actions()
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
        flush_output()
        os._exit(status)


def _unpadded(parts: list[Tensor]) -> Tensor:
    table = torch.cat(parts)
    return table[table[:, 0] == 1, 1:]
