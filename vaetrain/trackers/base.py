"""Interface of an experiment tracker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class TrackedRun:
    """A run as its trackers know it.

    Attributes:
        folder: run directory.
        name: name of the experiment.
        images: image count from which the run starts or resumes.
        run_id: identifier from an earlier start of this run; None: it is new.
        experiment: group of runs at the service, see `tracker.experiment`.
    """

    folder: Path
    name: str
    images: int
    run_id: str | None
    experiment: str = "vaetrain"


class Projection(NamedTuple):
    """Data of TensorBoard's embedding projector.

    Attributes:
        vectors: (N, D).
        sprites: (N, 1, 32, 32) in [0, 1], the top of each page.
        columns: headers of `names`.
        names: texts of each page, one a column.
    """

    vectors: Tensor
    sprites: Tensor
    columns: list[str]
    names: list[list[str]]


class RunTracker:
    """Methods that a run log calls, beside those of Accelerate's `GeneralTracker`.

    Subclasses also derive from one of Accelerate's trackers, whose `start`, `log`,
    `store_init_configuration` and `finish` they inherit, and are constructed from a `TrackedRun`.

    Attributes:
        run_id: identifier of the run at the service; None without a service.
        failures: exceptions that mean that the service cannot be reached.
        has_projector: True if `log_projection` shows anything.
        viewer: shell command that shows the run; None if another machine shows it.
    """

    run_id: str | None = None
    viewer: str | None = None
    failures: tuple[type[Exception], ...] = (OSError,)
    has_projector = False

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Log grey pictures, uint8 (H, W), by name."""
        raise NotImplementedError

    def log_final_model(self, final: Path, metrics: dict[str, Any], step: int) -> None:
        """Log the final model, a run's `final/`, and the last validation metrics."""
        raise NotImplementedError

    def log_projection(self, projection: Projection, step: int) -> None:
        """Log latents for an embedding projector; called if `has_projector`."""
