"""Measurements of a batch-size study: memory, speed, and gradient noise of one experiment."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.support import harness, memory, report
from benchmarks.support.batch_size import gradient_noise
from benchmarks.support.batch_size.setups import OPTIONS, PLAIN, Setup, with_option
from benchmarks.support.batch_size.trainer_step import (
    TrainerStep,
    cut,
    pages_of_one_height,
    work_of_a_step,
)
from benchmarks.support.harness import Case
from shards import cli
from shards.errors import UserError
from vaetrain.artifacts import checkpoint
from vaetrain.config.experiment import Experiment
from vaetrain.data.batching import split_global_batch
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.data.loading import TrainingData, build_sample
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.model.vae import VAE

GIB = 2**30
CUDA = torch.device("cuda", 0)
PREDICTED = (PLAIN, "bf16", "checkpointing")  # options that change the largest micro batch
MAX_PAGES = 4096  # of a round of timing


@dataclass(frozen=True)
class Plan:
    """Cases and amount of work; defaults of the command line.

    Attributes:
        micros: micro batches to time; each divides the largest.
        batches: global batches to train at.
        options: names in `OPTIONS`, timed at the experiment's own batch.
        rules: scaling rules of the learning rate, see `time_to_target.RULES`.
        images, validations: of each training.
        noise_pages: pages of the gradient noise scale at each checkpoint.
        memory: sizes of memory to fit micro batches into, GiB.
        rounds, warmup: of timing.
    """

    micros: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    batches: tuple[int, ...] = (8, 16, 32, 64)
    options: tuple[str, ...] = tuple(OPTIONS)
    rules: tuple[str, ...] = ("sqrt",)
    images: int = 8192
    validations: int = 16
    noise_pages: int = gradient_noise.PAGES
    memory: tuple[int, ...] = (8, 16, 24, 40, 80)
    rounds: int = 7
    warmup: int = 1


class BatchSizeStudy:
    """Measurements of one experiment on one device."""

    def __init__(self, experiment: Experiment, plan: Plan, device: torch.device, seed: int) -> None:
        """Open the experiment's shards.

        Raises UserError if no common multiple of all batch sizes is small enough to time.
        """
        self.experiment, self.plan, self.device, self.seed = experiment, plan, device, seed
        self.engine = start_engine(running_launch(os.environ), "no")
        if experiment.data.folder == SAMPLE_SHARDS:
            build_sample()
        self.data = TrainingData(
            experiment.data,
            self.engine,
            VAE.stride,
            seed=experiment.train.seed,
            global_batch_size=experiment.train.global_batch_size,
        )
        self.own = self.at_batch(experiment.train.global_batch_size)
        self.pages = math.lcm(*plan.micros, *plan.batches, experiment.train.global_batch_size)
        if self.pages > MAX_PAGES:
            raise UserError(
                f"--micros, --batches: their least common multiple is {self.pages} pages, more "
                f"than {MAX_PAGES}; use powers of two"
            )
        self.results: list[dict[str, Any]] = []
        self.comparisons: list[dict[str, Any]] = []
        self.options: list[dict[str, Any]] = []
        self.missing: list[dict[str, str]] = []
        self.peak = cache(self._predict_peak)  # every measurement uses the predictions

    def at_batch(self, batch: int) -> Setup:
        """Return the setup that the trainer uses for a global batch on one device."""
        batching = split_global_batch(batch, None, world_size=1)
        return Setup(batching.micro_batch, batching.accumulation)

    @property
    def setups(self) -> list[Setup]:
        """Setups to time: micro batches of one global batch, global batches, options."""
        sweep = [Setup(micro, self.pages // micro) for micro in self.plan.micros]
        batches = map(self.at_batch, self.plan.batches)
        options = [replace(self.own, option=option) for option in self.plan.options]
        return list(dict.fromkeys([*sweep, *batches, self.own, *options]))

    # Memory: with the tallest pages that the experiment allows.

    def work(self, micro: int, option: str) -> memory.Work:
        """Return a function that builds a training and takes a step of the tallest pages."""
        size = (int(self.data.ladder[-1]), self.experiment.data.width)
        return work_of_a_step(with_option(self.experiment, option), micro, size)

    def _predict_peak(self, micro: int, option: str, device: torch.device) -> int:
        """Return the peak bytes of a step on a device, which need not be available."""
        # torch.compile chooses the activations to keep: hardly more bytes than without it.
        option = PLAIN if option == "compile" else option
        return memory.predict(self.work(micro, option), device)

    def fits(self, setup: Setup) -> bool:
        """Return whether a setup fits in the device's memory."""
        return self.peak(setup.micro, setup.option, self.device) < available(self.device)

    def measure_memory(self) -> list[dict[str, Any]]:
        """Predict the peaks of all micro batches and options, and measure those that fit."""
        sweep = [(micro, PLAIN) for micro in self.plan.micros]
        options = [(self.own.micro, name) for name in self.plan.options if name != "compile"]
        cases = list(dict.fromkeys([*sweep, *options]))
        rows = []
        for micro, option in cli.progress(cases, desc="memory", unit="case"):
            row = {"micro": micro, "option": option, "measured": None}
            row["predicted"] = self.peak(micro, option, self.device)
            row["cuda"] = self.peak(micro, option, CUDA)
            if self.fits(Setup(micro, 1, option)):
                row["measured"] = memory.measure(self.work(micro, option), self.device)
            rows.append(row)
        group = f"peak of a step, {self.data.ladder[-1]} x {self.experiment.data.width} px"
        self.results += [
            report.result(
                group,
                f"{row['micro']}, {row['option']}",
                "MB",
                [row["measured"] / 1e6],
                {"MB predicted": round(row["predicted"] / 1e6, 1)},
                better="lower",
            )
            for row in rows
            if row["measured"] is not None
        ]
        return rows

    def measure_fits(self) -> list[dict[str, Any]]:
        """Predict the largest micro batch on CUDA for each size of memory, by option."""
        cases = [
            (option, gib)
            for option in PREDICTED
            if option in self.plan.options
            for gib in self.plan.memory
        ]
        rows = []
        for option, gib in cli.progress(cases, desc="fitting", unit="size"):
            peak = partial(self.peak, option=option, device=CUDA)
            micro = memory.largest_that_fits(peak, gib * GIB)
            rows.append({"option": option, "gib": gib, "micro": micro})
        return rows

    # Speed: with pages of the most frequent height.

    def measure_speed(self) -> dict[Setup, dict[str, Any]]:
        """Measure images/s of every setup, in interleaved rounds over the same pages."""
        ids, rows = pages_of_one_height(self.data, self.pages)
        group = f"training steps, {rows} x {self.experiment.data.width} px"
        batches = cache(lambda micro: cut(self.data, ids, micro, self.device))
        steps = cache(lambda option: TrainerStep(with_option(self.experiment, option), self.device))

        def case(setup: Setup) -> Case:
            step, parts = steps(setup.option), batches(setup.micro)

            def run() -> int:
                starts = range(0, len(parts), setup.accumulation)
                return sum(step(parts[start : start + setup.accumulation]) for start in starts)

            return Case(setup.name, run)

        fitting = [setup for setup in self.setups if self.fits(setup)]
        for setup in set(self.setups) - set(fitting):
            reason = "predicted peak exceeds the device's memory"
            self.missing.append({"group": group, "name": setup.name, "reason": reason})
        rates = harness.interleave(
            [case(setup) for setup in fitting],
            rounds=self.plan.rounds,
            warmup=self.plan.warmup,
            device=self.device,
            seed=self.seed,
        )
        speeds = {
            setup: report.result(group, setup.name, "images/s", rates[setup.name])
            for setup in fitting
        }
        self.results += speeds.values()
        for setup in fitting:
            if setup.option != PLAIN:
                ratio = report.compare(self.results, group, setup.name, self.own.name, None)
                self.comparisons.append(ratio)
                case_name = {"micro": setup.micro, "option": setup.option}
                self.options.append(case_name | spread(ratio))
        return speeds

    # Gradient noise: at the checkpoints of the first training.

    def measure_noise(self, run_dir: Path) -> list[dict[str, Any]]:
        """Measure the gradient noise scale at the checkpoints of a training."""
        rows = []
        for path in checkpoint.list_checkpoints(run_dir / "checkpoints"):
            saved = checkpoint.load(path)
            losses = gradient_noise.losses_at(self.experiment, saved, self.data, self.engine)
            scale = gradient_noise.measure(
                losses, self.data, self.engine, seed=self.seed, pages=self.plan.noise_pages
            )
            rows.append({"images": saved.images, **scale.as_json()})
        return rows


def available(device: torch.device) -> int:
    """Return the memory of the device in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def spread(entry: dict[str, Any]) -> dict[str, float]:
    """Return the quartiles of an entry of a record."""
    return {name: entry[name] for name in ("q1", "median", "q3")}
