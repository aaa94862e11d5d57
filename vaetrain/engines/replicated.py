"""Every rank holds the whole model: one process, or DDP through Accelerate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vaetrain.engines.base import AVERAGE, WEIGHT, Engine
from vaetrain.engines.optimizers import load_optimizer_tensors, optimizer_tensors, step_where


class ReplicatedEngine(Engine):
    """`single` and `ddp`: a slice is a whole parameter."""

    def _spread(self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int) -> None:
        self.adamw = optimizer
        self.model = self.accelerator.prepare(model)

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Only a step's last micro batch communicates."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(self.model):
                yield

    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def _step(self) -> Tensor:
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self.adamw)
        limit = self.clip_norm if self.clip_norm > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), limit)
        step_where(norm.isfinite(), self.adamw)
        if scaler is not None:
            scaler.update()
        self.adamw.zero_grad()
        return norm

    @property
    def loss_scale(self) -> Tensor | float:
        """See `Engine.loss_scale`."""
        scaler = self.accelerator.scaler
        return 1.0 if scaler is None else scaler.scale(torch.ones((), device=self.device))

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """See `Engine.optimizer_state`; of other optimizers all they keep, for this engine."""
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

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return parameter.detach() if kind == WEIGHT else self.adamw.state[parameter][kind]

    def _cut(self, parameter: nn.Parameter, kind: str, whole: Tensor) -> None:
        self.adamw.state[parameter][kind].copy_(whole)
