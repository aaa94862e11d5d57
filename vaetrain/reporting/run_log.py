"""Records of a run: metrics.jsonl, the trackers, the log and the progress bar."""

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

from shards.atomic_files import write_atomic, writing
from shards.cli import print_line
from vaetrain.artifacts.run_dir import METRICS_FILE, MetricsFile, read_metrics
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.settings import flatten
from vaetrain.trackers.base import Projection, RunTracker
from vaetrain.trackers.start import one_line, start_trackers

BAR_VALUES = ("loss", "recon", "ssim", "kl")  # shown beside the progress bar


class RunLog:
    """The records of one run.

    Attributes:
        trackers: started trackers whose services have not failed.
    """

    def __init__(
        self, run_dir: Path, experiment: Experiment, *, horizon: int, images: int, enabled: bool
    ) -> None:
        """Open the records at an image count; later lines of an interrupted run are dropped.

        Args:
            horizon: image count at which the run ends.
            enabled: False on all but the main process: records are discarded.

        Raises CannotWrite, and ConfigError if metrics.jsonl is damaged.
        """
        if enabled:
            keep_lines_until(run_dir / METRICS_FILE, images)
        self.metrics = MetricsFile(run_dir / METRICS_FILE if enabled else Path(os.devnull))
        self.can_write = True
        self.run_dir = run_dir
        self.experiment = experiment
        self.images = images
        self.enabled = enabled
        self.trackers: list[RunTracker] = []
        self.bar = tqdm(
            total=horizon,
            initial=images,
            unit="img",
            dynamic_ncols=True,
            disable=not (enabled and sys.stderr.isatty()),
        )

    def start_trackers(self) -> None:
        """Start the experiment's trackers; raises ConfigError if one cannot be reached."""
        experiment = self.experiment
        self.trackers = start_trackers(
            experiment.trackers,
            experiment.name,
            self.run_dir,
            self.images,
            experiment.tracker.experiment,
        )
        settings = {key: str(value) for key, value in flatten(as_dict(experiment)).items()}
        self._for_each_tracker(lambda tracker: tracker.store_init_configuration(settings))

    def _for_each_tracker(self, action: Callable[[Any], None]) -> None:
        """Call every tracker; remove one whose service fails, so that the run continues."""
        for tracker in list(self.trackers):
            try:
                action(tracker)
            except tracker.failures as error:
                self.trackers.remove(tracker)
                self.print(
                    f"warning: tracker {tracker.name} failed and is switched off: "
                    f"{one_line(error)}; {METRICS_FILE} has all metrics"
                )

    def write_metrics(self, split: str, images: int, values: dict[str, Any]) -> None:
        """Write one line of `metrics.jsonl` and one point of every tracker; None is omitted."""
        values = {key: value for key, value in values.items() if value is not None}
        try:
            self.metrics.append({"split": split, "images": images, **values})
            self.can_write = True
        except OSError as error:
            if self.can_write:
                self.print(
                    f"warning: {self.run_dir / METRICS_FILE}: cannot be written ({error.strerror});"
                    " its lines are kept in memory until it can"
                )
            self.can_write = False
        numbers = {f"{split}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        self._for_each_tracker(lambda tracker: tracker.log(numbers, step=images))

    def write_pictures(self, images: int, pictures: dict[str, np.ndarray]) -> None:
        """Send grey pictures, uint8 (H, W) by name, to the trackers."""
        self._for_each_tracker(lambda tracker: tracker.log_pictures(pictures, images))

    def write_final_model(self, final: Path) -> None:
        """Send the final model, a run's `final/`, and its last metrics to the trackers."""
        metrics = self.last_validation() or {"images": self.images}
        step = metrics.pop("images")
        self._for_each_tracker(lambda tracker: tracker.log_final_model(final, metrics, step))

    def last_validation(self) -> dict[str, float]:
        """Return the numbers of the last validation, `images` included; empty without one."""
        lines = read_metrics(self.run_dir / METRICS_FILE)
        last = next((line for line in reversed(lines) if line["split"] == "val"), {})
        return {key: value for key, value in last.items() if isinstance(value, int | float)}

    def write_projection(self, images: int, projection: Projection) -> None:
        """Send latents to the trackers with an embedding projector."""
        self._for_each_tracker(
            lambda tracker: tracker.has_projector and tracker.log_projection(projection, images)
        )

    @property
    def has_projector(self) -> bool:
        """True if a tracker shows projections."""
        return any(tracker.has_projector for tracker in self.trackers)

    @property
    def wants_pictures(self) -> bool:
        """True if a tracker shows pictures."""
        return bool(self.trackers)

    @property
    def viewers(self) -> list[str]:
        """Shell commands that show the run."""
        return [tracker.viewer for tracker in self.trackers if tracker.viewer]

    def update_progress(self, images: int) -> None:
        """Move the progress bar to an image count."""
        self.bar.update(images - self.bar.n)

    def show_values(self, values: dict[str, Any]) -> None:
        """Show the loss and its parts beside the progress bar."""
        shown = {key: f"{values[key]:.4g}" for key in BAR_VALUES if key in values}
        self.bar.set_postfix(shown, refresh=False)

    def print(self, message: str) -> None:
        """Print one line of the log on the main process."""
        if self.enabled:
            self.bar.clear()
            print_line(message)

    def sync(self) -> None:
        """Flush metrics.jsonl to disk; called before a checkpoint, which must not be ahead of it.

        Raises CannotWrite if the disk refuses it.
        """
        with writing(self.run_dir / METRICS_FILE):
            self.metrics.sync()

    def close(self) -> None:
        """Flush and close all records. Lines that cannot be written are after every checkpoint."""
        self.bar.close()
        with contextlib.suppress(OSError):
            self.metrics.close()
        self._for_each_tracker(lambda tracker: tracker.finish())


def keep_lines_until(path: Path, images: int) -> None:
    """Drop the lines of `metrics.jsonl` after an image count."""
    kept = [line for line in read_metrics(path) if line["images"] <= images]
    with writing(path):
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))


def summary_lines(run_dir: Path, results: dict[str, Any], viewers: list[str]) -> list[str]:
    """Return the last lines of a finished run's log: its best scores beside the baselines.

    Args:
        viewers: shell commands that show the run.
    """
    lines = [f"finished after {results['images']} images: {run_dir}"]
    scored = {name: scores for name, scores in results["baselines"].items() if "l1" in scores}
    if results["best"]:
        scored = {
            f"this run (best, at {results['best']['images']} images)": results["best"],
            **scored,
        }
    for name, scores in scored.items():
        lines.append(f"  validation l1 {scores['l1']:.4f}  ssim {scores['ssim']:.4f}  {name}")
    return [*lines, *(f"open it: {viewer}" for viewer in viewers)]


class Stopwatch:
    """Wall-clock time since the last log line, and its share by phase of the steps.

    Attributes:
        images: image count at the last line.
        seconds: seconds of each phase since then, by name.
        synchronise: called at the end of each phase; a benchmark synchronises its GPU there.
    """

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        self.synchronise = synchronise
        self.restart(0)

    def restart(self, images: int) -> None:
        """Restart the count at an image count."""
        self.images = images
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase of a step, which a profiler's trace shows by this name."""
        started = time.perf_counter()
        with record_function(name):
            yield
            self.synchronise()
        self.seconds[name] += time.perf_counter() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude work other than training, such as validation, from `elapsed`."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    @property
    def elapsed(self) -> float:
        """Seconds since the restart, without pauses."""
        return time.perf_counter() - self._started
