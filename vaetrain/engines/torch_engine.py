"""Common part of the engines whose backward pass and optimizer step are torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from vaetrain.engines.base import Engine
from vaetrain.engines.optimizers import clip_gradients, step_where
from vaetrain.engines.spec import Launch


class TorchEngine(Engine):
    """An engine with torch's backward pass, gradient clipping and optimizer step.

    Attributes:
        scaler: scales the losses of fp16; disabled for other precisions.
    """

    def __init__(self, launch: Launch, precision: str | None, timeout: float) -> None:
        super().__init__(launch, precision, timeout)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def _clip(self) -> Tensor:
        """Clip the model's gradients; return their global norm before clipping."""
        return clip_gradients(self.module.parameters(), self.clip_norm)

    def _step(self) -> Tensor:
        # Not `GradScaler.step`: it would copy its verdict to the host and wait for the device.
        self.scaler.unscale_(self.adamw)
        norm = self._clip()
        step_where(norm.isfinite(), self.adamw)
        self.scaler.update()
        self.adamw.zero_grad()
        return norm

    @property
    def loss_scale(self) -> Tensor | float:
        """See `Engine.loss_scale`."""
        one = torch.ones((), device=self.device)
        return self.scaler.scale(one) if self.scaler.is_enabled() else 1.0
