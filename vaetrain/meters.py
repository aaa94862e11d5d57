"""Means over the optimizer steps since the last logged line, kept on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shards.reading.sample_order import SampleOrder
from vaetrain.engines.base import Engine

PER_STEP = ("grad_norm", "clipped_share")
MAX_LISTED = 16  # skipped steps, and sample ids of each, in a line of the log


class Meter:
    """Sums of per-page and per-step values; read, reset, saved and resumed together.

    Skipped steps, those with a loss or gradient that was not finite, are excluded from the means.

    Attributes:
        since: image count at which the sums start.
        skipped: indices of the steps skipped before the last reading, counted from the reading
            before; without those of fp16 that only had too large a loss scale.
        longest_skip: length of the longest run of such steps that ended with one of `skipped`; a
            resumed run counts anew.
    """

    def __init__(self, engine: Engine, parts: Sequence[str]) -> None:
        """Start at 0.

        Args:
            parts: names of the per-page values.
        """
        self.engine = engine
        self.names = (*parts, "valid_rows", "rows")
        self.since = 0
        self.samples = torch.zeros(len(self.names), dtype=torch.float64, device=engine.device)
        self.pending = torch.zeros_like(self.samples)  # of the current step
        # Of each step, float64 (2,): whether it was skipped, and whether a loss of this rank was
        # not finite.
        self.outcomes: list[Tensor] = []
        self.skipped: list[int] = []
        self.longest_skip = self.current_skip = 0
        self.steps = torch.zeros(len(PER_STEP), dtype=torch.float64, device=engine.device)

    def add_samples(self, parts: dict[str, Tensor]) -> None:
        """Add this rank's micro batch: each part (B,)."""
        self.pending += torch.stack([parts[name].double().sum() for name in self.names])

    def add_step(self, grad_norm: Tensor, clip_norm: float, applied: Tensor) -> None:
        """Add an optimizer step, which ends with the same values on every rank.

        Args:
            grad_norm: scalar, before clipping.
            clip_norm: 0: gradients are not clipped.
            applied: bool scalar on the device.
        """
        clipped = (grad_norm > clip_norm) if clip_norm > 0 else torch.zeros_like(grad_norm)
        step = torch.stack([grad_norm.double(), clipped.double()])
        self.outcomes.append(torch.stack([~applied, ~self.pending.isfinite().all()]).double())
        self.samples += torch.where(applied, self.pending, 0.0)
        self.steps += torch.where(applied, step, 0.0)
        self.pending.zero_()

    def read(self, images: int) -> dict[str, float]:
        """Return the means over all ranks since the last reading, and reset. Collective.

        Waits for the device. `skipped_steps` is their number; where all steps were skipped, there
        are no means.

        Args:
            images: image count now.
        """
        outcomes = self._summed_outcomes()
        applied = sum(not is_skipped for is_skipped, _ in outcomes)
        values: dict[str, float] = {}
        if applied:
            pages = applied * (images - self.since) / len(outcomes)
            samples = (self.engine.sum(self.samples) / pages).tolist()
            values = dict(zip(self.names, samples, strict=True))
            values["padding_waste"] = 1 - values.pop("valid_rows") / values.pop("rows")
            values |= dict(zip(PER_STEP, (self.steps / applied).tolist(), strict=True))
        self._count_skipped(outcomes)
        values["skipped_steps"] = len(self.skipped)
        self.samples.zero_()
        self.steps.zero_()
        self.outcomes.clear()
        self.since = images
        return values

    def _summed_outcomes(self) -> list[list[float]]:
        """Return of each step whether it was skipped, and whether any rank's loss was not finite.

        Collective.
        """
        if not self.outcomes:
            return []
        summed = self.engine.sum(torch.stack(self.outcomes)).clamp(max=1)
        return summed.tolist()

    def _count_skipped(self, outcomes: list[list[float]]) -> None:
        # A gradient that overflows by fp16's loss scale is no fault of the pages: the scale is
        # halved then. Below a scale of 1 the gradient itself is too large.
        is_scaled = self.engine.precision == "fp16" and float(self.engine.loss_scale) >= 1
        self.skipped, self.longest_skip = [], 0
        for index, (is_skipped, loss_is_bad) in enumerate(outcomes):
            if not is_skipped:
                self.current_skip = 0
            elif loss_is_bad or not is_scaled:
                self.skipped.append(index)
                self.current_skip += 1
                self.longest_skip = max(self.longest_skip, self.current_skip)

    def state(self) -> dict[str, object]:
        """Return the sums over all ranks, for a checkpoint. Collective."""
        samples = self.engine.sum(self.samples).tolist()
        return {
            "since": self.since,
            "samples": samples,
            "steps": self.steps.tolist(),
            "verdicts": self._summed_outcomes(),
        }

    def load(self, state: dict[str, object]) -> None:
        """Load the state from a checkpoint, on any number of ranks."""
        self.since = state["since"]
        if self.engine.is_main:
            self.samples.copy_(torch.tensor(state["samples"], dtype=torch.float64))
        self.steps.copy_(torch.tensor(state["steps"], dtype=torch.float64))
        outcomes = torch.tensor(state["verdicts"], dtype=torch.float64, device=self.engine.device)
        self.outcomes = list(outcomes)


class StepMeans:
    """Means over steps of values that are the same on every rank; skipped steps are excluded."""

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, values: Tensor, applied: Tensor) -> None:
        """Add a step.

        Args:
            values: (len(names),).
            applied: bool scalar on the device.
        """
        self.sums += torch.where(applied, values, 0.0)
        self.count += applied

    def read(self) -> dict[str, float]:
        """Return the means by name since the last reading, and reset; empty without a step.

        Waits for the device.
        """
        if not self.count:
            return {}
        values = (self.sums / self.count).tolist()
        self.sums.zero_()
        self.count.zero_()
        return dict(zip(self.names, values, strict=True))

    def state(self) -> dict[str, object]:
        """Return the sums, for a checkpoint."""
        return {"sums": self.sums.tolist(), "count": self.count.item()}

    def load(self, state: dict[str, object]) -> None:
        """Load the state from a checkpoint."""
        self.sums.copy_(torch.tensor(state["sums"], dtype=torch.float64))
        self.count.fill_(state["count"])


def ids_of_steps(order: SampleOrder, steps: range, engine: Engine) -> list[np.ndarray] | None:
    """Return the samples' ids of each step, (G,), on the main process; None elsewhere. Collective.

    One rank of each team finds those of the team's partitions: all of them would be too much for
    one rank.
    """
    team = order.team(engine.rank, engine.world_size)
    if len(team.partitions) == order.partitions:  # one team: the main process needs no other rank
        return [order.step(step)[0] for step in steps] if engine.is_main else None
    own = [order.step(step, team.partitions)[0] for step in steps] if team.place == 0 else []
    rows = torch.from_numpy(np.stack(own, axis=1)) if own else torch.zeros(0, len(steps)).long()
    rows = engine.gather_to_main(rows.to(engine.device))
    return None if rows is None else list(np.sort(rows.cpu().numpy(), axis=0).T)


def ids_hash(ids: Sequence[np.ndarray]) -> str:
    """Return a hash of the samples of some steps, 16 hexadecimal digits.

    SHA-256 of their sorted ids as little-endian int64.
    """
    ids = np.sort(np.concatenate(ids))
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]


def skipped_steps_warning(skipped: list[list[int]], steps: int, images: int) -> str:
    """Return a log line about skipped steps; metrics.jsonl lists all of their pages.

    Args:
        skipped: sample ids of each skipped step.
        steps: number of steps since the last line.
        images: image count now.
    """

    def listed(ids: list[int]) -> str:
        more = f" and {len(ids) - MAX_LISTED} more" if len(ids) > MAX_LISTED else ""
        return ", ".join(map(str, ids[:MAX_LISTED])) + more

    return (
        f"warning: {len(skipped)} of {steps} steps up to {images} images skipped because a loss or "
        "gradient was not finite; their pages: " + "; ".join(map(listed, skipped[:MAX_LISTED]))
    )
