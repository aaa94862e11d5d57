"""Short real trainings of the checks, and comparisons of what they have logged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import small_run
from launch.diagnosis.machine import Machine
from launch.diagnosis.outcome import Failed
from launch.processes import new_mark
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics

GLOBAL_BATCH = 16  # pages
STEPS = 6
FEW_STEPS = (
    f"train.global_batch_size={GLOBAL_BATCH}",
    f"train.max_images={STEPS * GLOBAL_BATCH}",
    "train.validate_every_images=1000000",
    "data.workers=0",
)
COMPARED = ("loss", "recon", "kl")
# Changes the fp32 of NVIDIA's libraries from TF32, which has 10 bits of mantissa, to IEEE's.
NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Workbench:
    """Machine and folder of a diagnosis; trainings in the folder are shared by its checks."""

    machine: Machine
    folder: Path

    @property
    def shards(self) -> Path:
        """Shards of the trainings, built once."""
        folder = self.folder / "shards"
        if not folder.exists():
            small_run.build_shards(folder)
        return folder

    @property
    def tolerance(self) -> float:
        """Largest relative difference of losses that are equal up to the order of sums."""
        return 1e-3 if self.machine.gpus else 1e-4

    def start(self, name: str, engine: str, *settings: str, on_gpu: bool = True) -> Any:
        """Start or resume a training on the machine's devices; return its process and mark.

        By default a rank has one micro batch per step.
        """
        mark, ranks = new_mark(), 1 if engine == "single" else self.machine.ranks
        process = small_run.start(
            engine,
            self.folder / name,
            (*FEW_STEPS, f"train.micro_batch_size={GLOBAL_BATCH // ranks}", *settings),
            shards=self.shards,
            log=self.log(name),
            mark=mark,
            processes=ranks,
            environment=NO_TF32 if on_gpu else NO_GPU,
        )
        return process, mark

    def log(self, name: str) -> Path:
        """Return the path of a training's output."""
        return self.folder / f"{name}.log"

    def train(
        self, name: str, engine: str, *settings: str, on_gpu: bool = True
    ) -> list[dict[str, Any]]:
        """Train to the end unless it was done before; return the lines of the training log.

        Raises Failed with the training's error message.
        """
        if not (self.folder / name / "final" / "config.json").exists():
            process, _ = self.start(name, engine, *settings, on_gpu=on_gpu)
            if status := process.wait():
                raise Failed(f"the training {name} ended with status {status}: {self.error(name)}")
        lines = read_metrics(self.folder / name / METRICS_FILE)
        return [line for line in lines if line["split"] == "train"]

    def reference(self) -> list[dict[str, Any]]:
        """Return the log of the fp32 training in one process, which most checks compare with."""
        return self.train("single", "single")

    def error(self, name: str) -> str:
        """Return the last error in a training's output."""
        return last_error(self.log(name))


def last_error(log: Path) -> str:
    """Return the last line of an output that names an error, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    return next(reversed(errors or lines), "no output")


def largest_difference(
    lines: list[dict[str, Any]],
    expected: list[dict[str, Any]],
    keys: tuple[str, ...] = COMPARED,
) -> float:
    """Return the largest relative difference between the values of two trainings.

    Raises Failed where they did not train on the same pages, or a value is not finite.
    """
    pages = [[line["ids_hash"] for line in each] for each in (lines, expected)]
    if pages[0] != pages[1]:
        raise Failed("the trainings read different pages")
    largest = 0.0
    for line, other in zip(lines, expected, strict=True):
        for key in (key for key in keys if key in other):
            if not (math.isfinite(line[key]) and math.isfinite(other[key])):
                raise Failed(f"{key} is {line[key]} at {line['images']} images")
            scale = max(abs(other[key]), 1e-6)
            largest = max(largest, abs(line[key] - other[key]) / scale)
    return largest


def require_at_most(difference: float, tolerance: float, what: str, **figures: Any) -> str:
    """Return a summary of a difference within its tolerance; raise Failed if it is larger."""
    text = f"{what} differ by {difference:.1e}, tolerance {tolerance:.0e}"
    if not difference <= tolerance:
        raise Failed(text, difference=difference, tolerance=tolerance, **figures)
    return text
