"""Directory of a run: its paths, its lock, and its metrics file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from shards.atomic_files import write_atomic, writing
from vaetrain.config.experiment import Experiment, as_dict
from vaetrain.settings import ConfigError

METRICS_FILE = "metrics.jsonl"
LOCK_SECONDS = 20.0  # time for the ranks of a stopped run to save and exit


class RunDir:
    """Paths of a run, and the results of a finished one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.experiment_file = folder / "experiment.yaml"
        self.checkpoints = folder / "checkpoints"
        self.final = folder / "final"

    def lock(self) -> None:
        """Create the directory and lock it exclusively until this process ends.

        Raises ConfigError if another training is running in it, or if it cannot be written.
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
        """Whether the run has written its final model."""
        return (self.final / "config.json").exists()

    def write_experiment(self, experiment: Experiment) -> None:
        """Write the resolved experiment atomically; raises CannotWrite."""
        tree = OmegaConf.create(as_dict(experiment))
        with writing(self.experiment_file):
            write_atomic(self.experiment_file, OmegaConf.to_yaml(tree))

    def results(self) -> dict[str, Any]:
        """Return the results of a finished run; raises ConfigError if their file is damaged."""
        path = self.final / "config.json"
        try:
            return json.loads(path.read_text())["results"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{path}: damaged ({error})") from error


class MetricsFile:
    """A `metrics.jsonl` that grows by whole lines; a full disk leaves new lines in memory."""

    def __init__(self, path: Path) -> None:
        """Open the file for appending; raises CannotWrite."""
        with writing(path):
            self._file = path.open("ab", buffering=0)
        self._pending = b""

    def append(self, line: dict[str, Any]) -> None:
        """Append a line; raises OSError if the disk is full, and keeps the line for later."""
        self._pending += json.dumps(line).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write all pending lines or none of them; raises OSError if the disk is full."""
        size = os.fstat(self._file.fileno()).st_size
        rest = memoryview(self._pending)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise
        self._pending = b""

    def sync(self) -> None:
        """Write all lines through to the disk; raises OSError if it fails."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the pending lines and close; raises OSError if the disk is full."""
        try:
            self.flush()
        finally:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, without a last line that a crash cut off.

    Raises ConfigError naming a line that this trainer cannot have written.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_read_line(path, number, text) for number, text in enumerate(lines, 1) if text]


def _read_line(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict) or not {"split", "images"} <= line.keys():
        raise ConfigError(f"{path}: line {number} is damaged; remove it to continue without it")
    return line
