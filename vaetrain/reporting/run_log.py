"""What a run tells: metrics.jsonl, the trackers, the log and the progress bar."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.profiler import record_function
from tqdm import tqdm

from shards.cli import print_line
from shards.storage import write_atomic, writing
from vaetrain.artifacts.run_dir import METRICS_FILE, MetricsFile, read_metrics
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.reporting.projector import Projection
from vaetrain.reporting.trackers import TensorBoard, start_trackers
from vaetrain.settings import flatten

SHOWN = ("loss", "recon", "ssim", "kl")  # beside the progress bar


class RunLog:
    """The record of one run in its directory."""

    def __init__(
        self, run_dir: Path, experiment: Experiment, *, horizon: int, images: int, enabled: bool
    ) -> None:
        """Continue the record at `images`; what an interrupted run wrote beyond is dropped.

        With `enabled` false, on all but the main process, everything is written to nowhere.

        Raises CannotWrite, and ConfigError where the record is damaged.
        """
        if enabled:
            keep_lines_until(run_dir / METRICS_FILE, images)
        self.metrics = MetricsFile(run_dir / METRICS_FILE if enabled else Path(os.devnull))
        self.has_room = True
        self.run_dir = run_dir
        self.experiment = experiment
        self.images = images
        self.enabled = enabled
        self.trackers: list[Any] = []
        self.bar = tqdm(
            total=horizon,
            initial=images,
            unit="img",
            dynamic_ncols=True,
            disable=not (enabled and sys.stderr.isatty()),
        )

    def start_trackers(self) -> None:
        """Show the run to those the experiment names; raises ConfigError if one is not there."""
        self.trackers = start_trackers(self.experiment, self.run_dir, self.images)
        settings = {key: str(value) for key, value in flatten(as_dict(self.experiment)).items()}
        self._tell(lambda tracker: tracker.store_init_configuration(settings))

    def _tell(self, action: Callable[[Any], None]) -> None:
        """Tell every tracker; one whose service went away ends no run, it is told no more."""
        for tracker in list(self.trackers):
            try:
                action(tracker)
            except tracker.failures as error:
                self.trackers.remove(tracker)
                reason = " ".join(str(error).split())[:300]
                self.print(f"{tracker.name} is told no more: {reason}; {METRICS_FILE} has it all")

    def write_metrics(self, split: str, images: int, values: dict[str, Any]) -> None:
        """Write one point of `metrics.jsonl` and of every tracker; None is left out."""
        values = {key: value for key, value in values.items() if value is not None}
        try:
            self.metrics.append({"split": split, "images": images, **values})
            self.has_room = True
        except OSError as error:
            if self.has_room:
                self.print(
                    f"warning: {self.run_dir / METRICS_FILE}: cannot be written ({error.strerror});"
                    " its lines wait until it can"
                )
            self.has_room = False
        numbers = {f"{split}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        self._tell(lambda tracker: tracker.log(numbers, step=images))

    def write_pictures(self, images: int, pictures: dict[str, np.ndarray]) -> None:
        """Show grey pictures, uint8 (H, W), by name."""
        self._tell(lambda tracker: tracker.log_pictures(pictures, images))

    def write_final_model(self, final: Path) -> None:
        """Give the finished model, a run's `final/`, to the trackers, and what it came to."""
        metrics = self.last_validation() or {"images": self.images}
        step = metrics.pop("images")
        self._tell(lambda tracker: tracker.log_final_model(final, metrics, step))

    def last_validation(self) -> dict[str, float]:
        """The numbers of the last validation, `images` among them; empty where there was none."""
        lines = read_metrics(self.run_dir / METRICS_FILE)
        last = next((line for line in reversed(lines) if line["split"] == "val"), {})
        return {key: value for key, value in last.items() if isinstance(value, int | float)}

    def write_projection(self, images: int, projection: Projection) -> None:
        """Show latents with their pages, to those who have an embedding projector."""
        for tracker in self._projectors:
            tracker.log_projection(projection, images)

    @property
    def has_projector(self) -> bool:
        """Whether anybody would see a projection."""
        return bool(self._projectors)

    @property
    def _projectors(self) -> list[TensorBoard]:
        return [tracker for tracker in self.trackers if isinstance(tracker, TensorBoard)]

    @property
    def wants_pictures(self) -> bool:
        """Whether anybody would see them."""
        return bool(self.trackers)

    def update_progress(self, images: int) -> None:
        """Move the progress bar to `images`."""
        self.bar.update(images - self.bar.n)

    def show_values(self, values: dict[str, Any]) -> None:
        """Put the loss and its parts beside the progress bar."""
        shown = {key: f"{values[key]:.4g}" for key in SHOWN if key in values}
        self.bar.set_postfix(shown, refresh=False)

    def print(self, message: str) -> None:
        """One line of the log."""
        if self.enabled:
            self.bar.clear()
            print_line(message)

    def sync(self) -> None:
        """Have the disk hold every line of the metrics, before a checkpoint goes beyond them.

        Raises CannotWrite where it does not.
        """
        with writing(self.run_dir / METRICS_FILE):
            self.metrics.sync()

    def close(self) -> None:
        """Flush everything to disk; what it does not take, no checkpoint has gone beyond."""
        self.bar.close()
        with contextlib.suppress(OSError):
            self.metrics.close()
        self._tell(lambda tracker: tracker.finish())


def keep_lines_until(path: Path, images: int) -> None:
    """Drop the lines of `metrics.jsonl` that lie beyond an image count."""
    kept = [line for line in read_metrics(path) if line["images"] <= images]
    with writing(path):
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))


def summary_lines(run_dir: Path, results: dict[str, Any]) -> list[str]:
    """What a finished run reached, beside what it had to beat, and where to look."""
    lines = [f"finished after {results['images']} images: {run_dir}"]
    scored = {name: scores for name, scores in results["baselines"].items() if scores}
    if results["best"]:
        scored = {
            f"this run (best, at {results['best']['images']} images)": results["best"],
            **scored,
        }
    for name, scores in scored.items():
        lines.append(f"  validation l1 {scores['l1']:.4f}  ssim {scores['ssim']:.4f}  {name}")
    return [*lines, f"look at it: tensorboard --logdir {run_dir}"]


class Stopwatch:
    """Wall-clock time since the last logged line, and what the parts of steps took of it.

    Attributes:
        images: the image count at the last line.
        seconds: of each phase since then, by name.
        settle: called at the end of each phase; a benchmark waits for its GPU there.
    """

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self.settle = settle
        self.restart(0)

    def restart(self, images: int) -> None:
        """Count from now, at this image count."""
        self.images = images
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around a part of a step; a profiler's trace shows it by this name."""
        started = time.perf_counter()
        with record_function(name):
            yield
            self.settle()
        self.seconds[name] += time.perf_counter() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no part of training, such as validation."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    @property
    def elapsed(self) -> float:
        """Seconds since the restart, pauses left out."""
        return time.perf_counter() - self._started
