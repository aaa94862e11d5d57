"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker

from vaetrain.trackers.base import Projection, RunTracker, TrackedRun


class TensorBoard(RunTracker, TensorBoardTracker):
    """Event files in `events/` of the run directory."""

    has_projector = True

    def __init__(self, run: TrackedRun) -> None:
        # Points beyond the checkpoint that a run resumes from are hidden.
        super().__init__("events", run.folder, purge_step=run.images + 1)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the settings until the final metrics, with which they are written."""
        self.settings = values

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Log grey pictures, uint8 (H, W), by name."""
        stacks = {name: picture[None, :, :, None] for name, picture in pictures.items()}
        self.log_images(stacks, step=step, dataformats="NHWC")

    def log_projection(self, projection: Projection, step: int) -> None:
        """Log latents for the embedding projector, with sprites and texts of the pages."""
        self.writer.add_embedding(
            projection.vectors,
            metadata=projection.names,
            metadata_header=projection.columns,
            label_img=projection.sprites,
            global_step=step,
            tag="latents",
        )

    def log_final_model(self, final: Path, metrics: dict[str, Any], step: int) -> None:
        """Log settings and final metrics for TensorBoard's table of runs.

        Event files do not contain models.
        """
        named = {f"final/{name}": value for name, value in metrics.items()}
        # `run_name` is the run's own folder: the default would show it as a second run.
        self.writer.add_hparams(self.settings, named, run_name=".", global_step=step)
