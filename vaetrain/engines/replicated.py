"""Engines whose ranks hold the whole model: one process, or DDP through Accelerate."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vaetrain.engines.base import AVERAGE, WEIGHT
from vaetrain.engines.optimizers import load_optimizer_tensors, optimizer_tensors
from vaetrain.engines.torch_engine import TorchEngine


class ReplicatedEngine(TorchEngine):
    """`single` and `ddp`: a slice is a whole parameter."""

    def _distribute(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int
    ) -> None:
        self.adamw = optimizer
        # Accelerate has no argument for the name that torch 2.14 prefers, so each rank would warn.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        self.model = self.accelerator.prepare(model)

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """See `Engine.micro_batch`; only a step's last micro batch communicates."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(self.model):
                yield

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """See `Engine.optimizer_state`; of other optimizers than AdamW, the whole state."""
        if isinstance(self.adamw, torch.optim.AdamW):
            yield from super().optimizer_state()
            return
        for name, tensor in optimizer_tensors(self.module, self.adamw).items():
            if not name.startswith(f"{AVERAGE}."):
                yield name, tensor

    def load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.load_optimizer_state`."""
        if isinstance(self.adamw, torch.optim.AdamW):
            super().load_optimizer_state(tensors)
        else:
            load_optimizer_tensors(self.module, self.adamw, tensors)

    def _masters(self) -> list[Tensor]:
        return list(self.module.parameters())

    def _gather_one(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return parameter.detach() if kind == WEIGHT else self.adamw.state[parameter][kind]

    def _scatter_one(self, parameter: nn.Parameter, kind: str, whole: Tensor) -> None:
        self.adamw.state[parameter][kind].copy_(whole)
