"""What a run tells: metrics.jsonl, TensorBoard, the log and the progress bar."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker
from tqdm import tqdm

from shards.writer import write_whole
from vaetrain.config import Experiment, as_dict
from vaetrain.rundir import METRICS_FILE, read_metrics
from vaetrain.settings import flatten


class RunLog:
    """The record of one run in its directory."""

    def __init__(
        self, run_dir: Path, experiment: Experiment, *, horizon: int, images: int, enabled: bool
    ) -> None:
        """Continue the record at `images`; what an interrupted run wrote beyond is dropped.

        With `enabled` false, on all but the main process, everything is written to nowhere.
        """
        self.trackers = []
        if enabled:
            keep_lines_until(run_dir / METRICS_FILE, images)
        self.metrics = (run_dir / METRICS_FILE if enabled else Path(os.devnull)).open("a")
        self.enabled = enabled
        if enabled and experiment.tracker == "tensorboard":
            tracker = TensorBoardTracker("events", run_dir, purge_step=images + 1)
            tracker.start()
            tracker.store_init_configuration(
                {key: str(value) for key, value in flatten(as_dict(experiment)).items()}
            )
            self.trackers.append(tracker)
        self.bar = tqdm(
            total=horizon,
            initial=images,
            unit="img",
            dynamic_ncols=True,
            disable=not (enabled and sys.stderr.isatty()),
        )

    def line(self, split: str, images: int, values: dict[str, Any]) -> None:
        """Write one point of `metrics.jsonl` and of every tracker; None is left out."""
        values = {key: value for key, value in values.items() if value is not None}
        record = {"split": split, "images": images, **values}
        self.metrics.write(json.dumps(record) + "\n")
        self.metrics.flush()
        numbers = {f"{split}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        for tracker in self.trackers:
            tracker.log(numbers, step=images)

    def pictures(self, images: int, pictures: dict[str, np.ndarray]) -> None:
        """Show grey pictures, uint8 (H, W), by name."""
        for tracker in self.trackers:
            stacks = {name: picture[None, :, :, None] for name, picture in pictures.items()}
            tracker.log_images(stacks, step=images, dataformats="NHWC")

    @property
    def wants_pictures(self) -> bool:
        """Whether anybody would see them."""
        return bool(self.trackers)

    def progress(self, images: int) -> None:
        """Move the progress bar to `images`."""
        self.bar.update(images - self.bar.n)

    def show(self, values: dict[str, Any]) -> None:
        """Put the loss and its parts beside the progress bar."""
        shown = {key: f"{values[key]:.4g}" for key in ("loss", "recon", "ssim", "kl")}
        self.bar.set_postfix(shown, refresh=False)

    def say(self, message: str) -> None:
        """One line of the log."""
        if self.enabled:
            self.bar.clear()
            print(message, flush=True)

    def close(self) -> None:
        """Flush everything to disk."""
        self.bar.close()
        self.metrics.close()
        for tracker in self.trackers:
            tracker.finish()


def keep_lines_until(path: Path, images: int) -> None:
    """Drop the lines of `metrics.jsonl` that lie beyond an image count."""
    kept = [line for line in read_metrics(path) if line["images"] <= images]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


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
    """Wall-clock time since the last logged line, and how much of it went into waiting for data.

    Attributes:
        images: the image count at the last line.
        waited: seconds spent waiting for data since then.
    """

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, images: int) -> None:
        """Count from now, at this image count."""
        self.images = images
        self.waited = 0.0
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait for data."""
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

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
