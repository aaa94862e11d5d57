"""An engine without processes, for parts that need one but no model spread over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from vaetrain.engines.base import Engine
from vaetrain.engines.collectives import Collectives

CPU = torch.device("cpu")


class FakeEngine(Collectives):
    """One rank of an engine; the other ranks hold the same tensors, so that no group is needed.

    Attributes, in addition to those of `Collectives`:
        loss_scale: 1, as of every precision but fp16.
    """

    loss_scale = 1.0
    average_gradients = Engine.average_gradients
    step_replicated = Engine.step_replicated

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device = CPU) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        self.is_main, self.heartbeat, self.timeout = rank == 0, None, 60.0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over ranks that all hold these values, as a new tensor."""
        return values * self.world_size

    def gather_ragged(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, which are this rank's repeated."""
        return rows.repeat(self.world_size, 1)

    def gather_to_main(self, rows: Tensor) -> Tensor | None:
        """Return the rows of all ranks on the main process."""
        return self.gather_ragged(rows) if self.is_main else None
