"""Means over the global steps since the last logged line, kept on the device between lines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shards.order import SampleOrder
from vaetrain.engine import Engine

PER_STEP = ("grad_norm", "clipped_share")


class Meter:
    """Sums of what each sample and each step brought; read, reset, saved and resumed together.

    Attributes:
        since: the image count the sums start at.
    """

    def __init__(self, engine: Engine, parts: Sequence[str]) -> None:
        """Start at 0; `parts` are the names of what each sample brings."""
        self.engine = engine
        self.names = (*parts, "valid_rows", "rows")
        self.since = 0
        self.samples = torch.zeros(len(self.names), dtype=torch.float64, device=engine.device)
        self.steps = torch.zeros(len(PER_STEP), dtype=torch.float64, device=engine.device)

    def add_samples(self, parts: dict[str, Tensor]) -> None:
        """Add this rank's micro batch: each part (B,)."""
        self.samples += torch.stack([parts[name].double().sum() for name in self.names])

    def add_step(self, grad_norm: Tensor, clip_norm: float) -> None:
        """Add an optimizer step, the same on every rank."""
        clipped = (grad_norm > clip_norm) if clip_norm > 0 else torch.zeros_like(grad_norm)
        self.steps += torch.stack([grad_norm.double(), clipped.double()])

    def read(self, images: int, steps: int) -> dict[str, float]:
        """The means since the last reading, over all ranks. Collective; a device sync."""
        samples = (self.engine.sum(self.samples) / (images - self.since)).tolist()
        values = dict(zip(self.names, samples, strict=True))
        values["padding_waste"] = 1 - values.pop("valid_rows") / values.pop("rows")
        values |= dict(zip(PER_STEP, (self.steps / steps).tolist(), strict=True))
        self.samples.zero_()
        self.steps.zero_()
        self.since = images
        return values

    def state(self) -> dict[str, object]:
        """The sums over all ranks, for a checkpoint. Collective."""
        samples = self.engine.sum(self.samples).tolist()
        return {"since": self.since, "samples": samples, "steps": self.steps.tolist()}

    def load(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint, on any number of ranks."""
        self.since = state["since"]
        if self.engine.is_main:
            self.samples.copy_(torch.tensor(state["samples"], dtype=torch.float64))
        self.steps.copy_(torch.tensor(state["steps"], dtype=torch.float64))


class StepMeans:
    """Means over steps of values that are the same on every rank; none of steps that were not."""

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Add a step's values, (len(names),)."""
        self.sums += values
        self.count += 1

    def read(self) -> dict[str, float]:
        """The means by name since the last reading, empty without a step. A device sync."""
        if self.count == 0:
            return {}
        values = (self.sums / self.count).tolist()
        self.sums.zero_()
        self.count = 0
        return dict(zip(self.names, values, strict=True))

    def state(self) -> dict[str, object]:
        """The sums, for a checkpoint."""
        return {"sums": self.sums.tolist(), "count": self.count}

    def load(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint."""
        self.sums.copy_(torch.tensor(state["sums"], dtype=torch.float64))
        self.count = state["count"]


def ids_hash(order: SampleOrder, steps: range) -> str:
    """What the samples of these global steps are, in 16 hexadecimal digits.

    SHA-256 of their sorted ids as little-endian int64.
    """
    ids = np.sort(np.concatenate([order.step(step)[0] for step in steps]))
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]
