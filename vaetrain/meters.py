"""Means over the global steps since the last logged line, kept on the device between lines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shards.reading.sample_order import SampleOrder
from vaetrain.engines.base import Engine

PER_STEP = ("grad_norm", "clipped_share")
MOST_TOLD = 16  # steps that were left out, and pages of each, in a line of the log


class Meter:
    """Sums of what each sample and each step brought; read, reset, saved and resumed together.

    Steps that were left out, because a loss or gradient was not finite, are in no mean.

    Attributes:
        since: the image count the sums start at.
        skipped: which steps of the last reading were left out, counted from 0; of fp16 not those
            that were too large for the loss scale alone.
        in_a_row: the most that followed one another, ending with one of these; counted anew when a
            run goes on.
    """

    def __init__(self, engine: Engine, parts: Sequence[str]) -> None:
        """Start at 0; `parts` are the names of what each sample brings."""
        self.engine = engine
        self.names = (*parts, "valid_rows", "rows")
        self.since = 0
        self.samples = torch.zeros(len(self.names), dtype=torch.float64, device=engine.device)
        self.pending = torch.zeros_like(self.samples)  # of the step under way
        self.verdicts: list[Tensor] = []  # of each step (2,): left out, and a loss here not finite
        self.skipped: list[int] = []
        self.in_a_row = self.row = 0
        self.steps = torch.zeros(len(PER_STEP), dtype=torch.float64, device=engine.device)

    def add_samples(self, parts: dict[str, Tensor]) -> None:
        """Add this rank's micro batch: each part (B,)."""
        self.pending += torch.stack([parts[name].double().sum() for name in self.names])

    def add_step(self, grad_norm: Tensor, clip_norm: float, applied: Tensor) -> None:
        """Add an optimizer step, the same on every rank; `applied` or left out."""
        clipped = (grad_norm > clip_norm) if clip_norm > 0 else torch.zeros_like(grad_norm)
        step = torch.stack([grad_norm.double(), clipped.double()])
        self.verdicts.append(torch.stack([~applied, ~self.pending.isfinite().all()]).double())
        self.samples += torch.where(applied, self.pending, 0.0)
        self.steps += torch.where(applied, step, 0.0)
        self.pending.zero_()

    def read(self, images: int) -> dict[str, float]:
        """The means since the last reading, over all ranks. Collective; a device sync.

        `skipped_steps` counts those left out; where all were, there are no means.
        """
        verdicts = self._verdicts()
        applied = sum(not left_out for left_out, _ in verdicts)
        values: dict[str, float] = {}
        if applied:
            pages = applied * (images - self.since) / len(verdicts)
            samples = (self.engine.sum(self.samples) / pages).tolist()
            values = dict(zip(self.names, samples, strict=True))
            values["padding_waste"] = 1 - values.pop("valid_rows") / values.pop("rows")
            values |= dict(zip(PER_STEP, (self.steps / applied).tolist(), strict=True))
        self._count(verdicts)
        values["skipped_steps"] = len(self.skipped)
        self.samples.zero_()
        self.steps.zero_()
        self.verdicts.clear()
        self.since = images
        return values

    def _verdicts(self) -> list[list[float]]:
        """Of every step whether it was left out, and on how many ranks a loss was not finite."""
        if not self.verdicts:
            return []
        summed = self.engine.sum(torch.stack(self.verdicts)).clamp(max=1)
        return summed.tolist()

    def _count(self, verdicts: list[list[float]]) -> None:
        # Too large a loss scale is not the pages' fault, and is halved; below 1 it is no excuse.
        scaled = self.engine.precision == "fp16" and float(self.engine.loss_scale) >= 1
        self.skipped, self.in_a_row = [], 0
        for number, (left_out, loss_is_bad) in enumerate(verdicts):
            if not left_out:
                self.row = 0
            elif loss_is_bad or not scaled:
                self.skipped.append(number)
                self.row += 1
                self.in_a_row = max(self.in_a_row, self.row)

    def state(self) -> dict[str, object]:
        """The sums over all ranks, for a checkpoint. Collective."""
        samples = self.engine.sum(self.samples).tolist()
        return {
            "since": self.since,
            "samples": samples,
            "steps": self.steps.tolist(),
            "verdicts": self._verdicts(),
        }

    def load(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint, on any number of ranks."""
        self.since = state["since"]
        if self.engine.is_main:
            self.samples.copy_(torch.tensor(state["samples"], dtype=torch.float64))
        self.steps.copy_(torch.tensor(state["steps"], dtype=torch.float64))
        verdicts = torch.tensor(state["verdicts"], dtype=torch.float64, device=self.engine.device)
        self.verdicts = list(verdicts)


class StepMeans:
    """Means over steps of values that are the same on every rank; none of steps that were not."""

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, values: Tensor, applied: Tensor) -> None:
        """Add a step's values, (len(names),), if it was `applied`, a bool scalar on the device."""
        self.sums += torch.where(applied, values, 0.0)
        self.count += applied

    def read(self) -> dict[str, float]:
        """The means by name since the last reading, empty without a step. A device sync."""
        if not self.count:
            return {}
        values = (self.sums / self.count).tolist()
        self.sums.zero_()
        self.count.zero_()
        return dict(zip(self.names, values, strict=True))

    def state(self) -> dict[str, object]:
        """The sums, for a checkpoint."""
        return {"sums": self.sums.tolist(), "count": self.count.item()}

    def load(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint."""
        self.sums.copy_(torch.tensor(state["sums"], dtype=torch.float64))
        self.count.fill_(state["count"])


def ids_hash(order: SampleOrder, steps: range) -> str:
    """What the samples of these global steps are, in 16 hexadecimal digits.

    SHA-256 of their sorted ids as little-endian int64.
    """
    ids = np.sort(np.concatenate([order.step(step)[0] for step in steps]))
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]


def left_out(skipped: list[list[int]], steps: int, images: int) -> str:
    """A warning of steps that were skipped, for the log; metrics.jsonl has all of their pages.

    Args:
        skipped: the sample ids of each.
        steps: how many there were since the last line.
        images: the image count now.
    """

    def told(ids: list[int]) -> str:
        more = f" and {len(ids) - MOST_TOLD} more" if len(ids) > MOST_TOLD else ""
        return ", ".join(map(str, ids[:MOST_TOLD])) + more

    return (
        f"warning: {len(skipped)} of {steps} steps up to {images} images were left out, for a loss "
        "or gradient was not finite; their pages: " + "; ".join(map(told, skipped[:MOST_TOLD]))
    )
