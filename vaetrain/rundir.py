"""The directory of a run: where things lie in it, and that only one training writes there."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from shards.writer import write_whole
from vaetrain.config import Experiment, as_dict
from vaetrain.settings import ConfigError

METRICS_FILE = "metrics.jsonl"
LOCK_SECONDS = 20.0  # a killed run's ranks need a moment to save and leave


class RunDir:
    """Paths of a run, and what is handed over at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.experiment_file = folder / "experiment.yaml"
        self.checkpoints = folder / "checkpoints"
        self.final = folder / "final"

    def claim(self) -> None:
        """Make the directory and hold it until this process ends.

        Raises ConfigError when another training goes on in it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be written ({error.strerror})") from error
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    message = f"{self.folder}: another training is running in this directory"
                    raise ConfigError(message) from error
                time.sleep(0.5)

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.final / "config.json").exists()

    def write_experiment(self, experiment: Experiment) -> None:
        """Write the resolved experiment, whole or not at all."""
        tree = OmegaConf.create(as_dict(experiment))
        write_whole(self.experiment_file, OmegaConf.to_yaml(tree))

    def results(self) -> dict[str, Any]:
        """What a finished run achieved; raises ConfigError where its file is damaged."""
        path = self.final / "config.json"
        try:
            return json.loads(path.read_text())["results"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{path}: is damaged ({error})") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
