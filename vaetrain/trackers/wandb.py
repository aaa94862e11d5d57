"""Weights & Biases."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from accelerate.tracking import WandBTracker

from vaetrain.trackers.base import RunTracker, TrackedRun


class WandB(RunTracker, WandBTracker):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run directory."""

    failures = (wandb.errors.Error,)

    def __init__(self, run: TrackedRun) -> None:
        self.run_id = run.run_id or secrets.token_hex(4)
        super().__init__(
            os.environ.get("WANDB_PROJECT", run.experiment),
            dir=str(run.folder),
            name=run.name,
            id=self.run_id,
            resume="allow",
            settings=wandb.Settings(quiet=True),
        )

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Log grey pictures, uint8 (H, W), by name."""
        self.log_images({name: [picture] for name, picture in pictures.items()}, step=step)

    def log_final_model(self, final: Path, metrics: dict[str, Any], step: int) -> None:
        """Log the final model and its pictures as an artifact."""
        artifact = wandb.Artifact(f"final-{self.run_id}", type="model")
        artifact.add_dir(str(final))
        self.run.log_artifact(artifact)
