"""The directory of a run: where things lie in it, and that only one training writes there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from shards.storage import write_atomic, writing
from vaetrain.config.experiment import Experiment, as_dict
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
        """Write the resolved experiment, whole or not at all; raises CannotWrite."""
        tree = OmegaConf.create(as_dict(experiment))
        with writing(self.experiment_file):
            write_atomic(self.experiment_file, OmegaConf.to_yaml(tree))

    def results(self) -> dict[str, Any]:
        """What a finished run achieved; raises ConfigError where its file is damaged."""
        path = self.final / "config.json"
        try:
            return json.loads(path.read_text())["results"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{path}: is damaged ({error})") from error


class MetricsFile:
    """A `metrics.jsonl` that grows by whole lines; those that a full disk does not take wait."""

    def __init__(self, path: Path) -> None:
        """Open for what follows; raises CannotWrite."""
        with writing(path):
            self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; raises OSError while the disk does not take it."""
        self._waiting += json.dumps(line).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write the lines that wait, or none of them; raises OSError while the disk is full."""
        whole = os.fstat(self._file.fileno()).st_size
        left = memoryview(self._waiting)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(whole)
            raise
        self._waiting = b""

    def sync(self) -> None:
        """Have the disk hold all lines; raises OSError where it does not."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what waits, or raise OSError, and close."""
        try:
            self.flush()
        finally:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a crash is left out.

    Raises ConfigError naming a line that is none of this trainer's.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [_read_line(path, number, text) for number, text in enumerate(whole, 1) if text]


def _read_line(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict) or not {"split", "images"} <= line.keys():
        raise ConfigError(f"{path}: line {number} is damaged; remove it to go on without it")
    return line
