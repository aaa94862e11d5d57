"""MLflow: a run on a server or in a local store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from accelerate.tracking import MLflowTracker
from mlflow import MlflowClient, MlflowException

from vaetrain.trackers.base import RunTracker, TrackedRun

EXPERIMENT = "vaetrain"
LOCAL_STORE = "mlflow.db"


class MLflow(RunTracker, MLflowTracker):
    """A run of MLflow on the server of MLFLOW_TRACKING_URI, else in a store beside the runs.

    The local store is `runs/mlflow.db` with artifacts in `runs/mlartifacts/`.
    """

    failures = (MlflowException,)

    def __init__(self, run: TrackedRun) -> None:
        artifacts = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            runs = run.folder.resolve().parent
            mlflow.set_tracking_uri(f"sqlite:///{runs / LOCAL_STORE}")
            artifacts = (runs / "mlartifacts").as_uri()
        super().__init__(EXPERIMENT, logging_dir=artifacts, run_id=run.run_id, run_name=run.name)
        self.logged_until: dict[str, int] = {}
        self.has_final_model = False

    def start(self) -> None:
        """Start the run, or continue it if the server still has it."""
        client = MlflowClient()
        self._create_experiment(client)
        if self.run_id is not None:
            try:
                known = client.get_run(self.run_id).data.metrics
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self.run_id, known = None, {}
            for name in known:
                history = client.get_metric_history(self.run_id, name)
                self.logged_until[name] = max(point.step for point in history)
        super().start()
        self.run_id = self.active_run.info.run_id

    def _create_experiment(self, client: MlflowClient) -> None:
        """Create the experiment; another run may create it at the same time."""
        if client.get_experiment_by_name(self.experiment_name) is None:
            try:
                client.create_experiment(self.experiment_name, self.logging_dir)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Log the settings; settings changed since the run's first start become tags.

        MLflow refuses to write a parameter twice.
        """
        known = mlflow.get_run(self.run_id).data.params
        changed = {key: value for key, value in values.items() if known.get(key, value) != value}
        if changed:
            mlflow.set_tags(changed)
        super().store_init_configuration({k: v for k, v in values.items() if k not in known})

    def log(self, values: dict[str, float], step: int, **options: Any) -> None:
        """Log numbers, except for points logged before an interruption."""
        new = {key: v for key, v in values.items() if step > self.logged_until.get(key, -1)}
        if new:
            super().log(new, step=step, **options)

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Log grey pictures, uint8 (H, W), by name."""
        for name, picture in pictures.items():
            mlflow.log_image(picture, key=name, step=step)

    def log_final_model(self, final: Path, metrics: dict[str, Any], step: int) -> None:
        """Log the final model and its pictures as artifacts under `final/`."""
        self.log_artifacts(str(final), artifact_path="final")
        self.has_final_model = True

    def finish(self) -> None:
        """End the run as FINISHED, or as KILLED before its final model."""
        mlflow.end_run("FINISHED" if self.has_final_model else "KILLED")
