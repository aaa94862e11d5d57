"""Start of a run's trackers. A resumed run stays the same run to each of them.

`trackers.json` in the run directory stores the identifier of the run at each tracker.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from shards.atomic_files import write_atomic, writing
from vaetrain.settings import ConfigError
from vaetrain.trackers.base import RunTracker, TrackedRun
from vaetrain.trackers.registry import TRACKERS

RUN_IDS = "trackers.json"


def start_trackers(
    names: list[str], run_name: str, run_dir: Path, images: int, experiment: str = "vaetrain"
) -> list[RunTracker]:
    """Start the named trackers; each continues its record of this run.

    Args:
        images: image count from which the run starts or resumes.
        experiment: group of runs at the services.

    Raises ConfigError with one line if a tracker's service cannot be reached.
    """
    run_ids_file = run_dir / RUN_IDS
    run_ids = json.loads(run_ids_file.read_text()) if run_ids_file.exists() else {}
    trackers = []
    for name in names:
        spec = TRACKERS[name]
        tracker_class = getattr(import_module(spec.module), spec.class_name)
        tracker = tracker_class(
            TrackedRun(run_dir, run_name, images, run_ids.get(name), experiment)
        )
        try:
            tracker.start()
        except tracker.failures as error:
            raise ConfigError(f"tracker: {name}: {one_line(error)}") from error
        trackers.append(tracker)
    known = {tracker.name: tracker.run_id for tracker in trackers if tracker.run_id}
    if run_ids | known:
        with writing(run_ids_file):
            write_atomic(run_ids_file, json.dumps(run_ids | known))
    return trackers


def one_line(error: Exception) -> str:
    """Return an error's message on one line, at most 300 characters."""
    return " ".join(str(error).split())[:300]
