"""The processes of a training: what they say to each other, and to whoever reads the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from shards.cli import print_line
from shards.errors import UserError
from vaetrain.engines.crash import flush_output
from vaetrain.engines.heartbeat import Heartbeat
from vaetrain.settings import ConfigError


class Collectives:
    """The process group as one of its ranks sees it; one process alone is all of them.

    Attributes:
        rank, world_size, is_main: this process among all.
        heartbeat: how ranks find out which of them is lost; None without others.
        device: where this rank computes.
    """

    rank: int
    world_size: int
    is_main: bool
    heartbeat: Heartbeat | None
    device: torch.device

    def log(self, message: str) -> None:
        """One line of the log, from the main process."""
        if self.is_main:
            print_line(message)

    def mark_progress(self, place: str) -> None:
        """Note where the training is; see `Heartbeat.mark_progress`."""
        if self.heartbeat is not None:
            self.heartbeat.mark_progress(place)

    def on_main(self, action: Callable[[], None], refused: type[UserError] = ConfigError) -> None:
        """Do something in the main process while the others wait.

        A UserError there is raised on all ranks, as `refused`.
        """
        refusal: list[str | None] = [None]
        if self.is_main:
            try:
                action()
            except UserError as error:
                refusal[0] = str(error)
        self.mark_progress("meeting the others")
        if dist.is_initialized():
            dist.broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise refused(refusal[0])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on all of them."""
        if dist.is_initialized():
            values = values.clone()
            dist.all_reduce(values)
        return values

    def require_equal(self, number: int, refusal: str) -> None:
        """Raise ConfigError with `refusal` on all ranks where a number differs between them."""
        mine = torch.tensor(number, device=self.device)
        if int(self.sum((mine != self.broadcast(mine.clone())).long())):
            raise ConfigError(refusal)

    def broadcast(self, values: Tensor) -> Tensor:
        """The main process' values, of the same shape on all ranks."""
        if dist.is_initialized():
            dist.broadcast(values, src=0)
        return values

    def gather_ragged(self, rows: Tensor) -> Tensor:
        """The rows (N, K) of all ranks, in order of rank; N may differ between them."""
        if not dist.is_initialized():
            return rows
        most = torch.tensor(len(rows), device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        # A leading column tells rows from padding.
        padded = rows.new_zeros(int(most), 1 + rows.shape[1])
        padded[: len(rows), 0] = 1
        padded[: len(rows), 1:] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        table = torch.cat(parts)
        return table[table[:, 0] == 1, 1:]

    def shut_down(self, status: int) -> NoReturn:
        """End this process, cleanly and for certain, with an exit status.

        On a busy machine a process that had succeeded sometimes aborted in the interpreter's exit,
        among threads of the process group; so what must happen is done here, and the rest skipped.
        """
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
        flush_output()
        os._exit(status)
