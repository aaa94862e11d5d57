"""The directory of a run: where things lie in it, and that only one training writes there."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vaetrain.config import Experiment, as_dict
from vaetrain.settings import ConfigError

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
        draft = self.experiment_file.with_suffix(".tmp")
        draft.write_text(OmegaConf.to_yaml(OmegaConf.create(as_dict(experiment))))
        draft.replace(self.experiment_file)

    def results(self) -> dict[str, Any]:
        """What a finished run achieved."""
        return json.loads((self.final / "config.json").read_text())["results"]
