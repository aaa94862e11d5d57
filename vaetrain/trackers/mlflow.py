"""MLflow: a run on a server or in a local store."""

from __future__ import annotations

import json
import logging
import os
import shlex
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from accelerate.tracking import MLflowTracker
from mlflow import MlflowClient, MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from vaetrain.trackers.base import RunTracker, TrackedRun

LOCAL_STORE, ARTIFACTS = "mlflow.db", "mlartifacts"
MODEL_CODE = Path(__file__).parents[1] / "inference" / "mlflow_model.py"  # run by MLflow
# Environment of the trainings of a study: the folder of its local store, and its parent run.
FOLDER_VARIABLE, PARENT_VARIABLE = "VAETRAIN_MLFLOW_FOLDER", "VAETRAIN_MLFLOW_PARENT"


def choose_store(folder: Path) -> str | None:
    """Use the server of MLFLOW_TRACKING_URI, or else a local store in a folder.

    Returns: the address for artifacts of new experiments; None where the server decides.
    """
    # MLflow's own lines and bars (creation of tables, copies of files) would interrupt the log.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    folder = folder.resolve()
    mlflow.set_tracking_uri(f"sqlite:///{folder / LOCAL_STORE}")
    return (folder / ARTIFACTS).as_uri()


def create_experiment(client: MlflowClient, name: str, artifacts: str | None) -> None:
    """Create an experiment if there is none; another run may create it at the same time."""
    if client.get_experiment_by_name(name) is None:
        try:
            client.create_experiment(name, artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


class MLflow(RunTracker, MLflowTracker):
    """A run of MLflow on the server of MLFLOW_TRACKING_URI, else in a store beside the runs.

    The local store is `runs/mlflow.db` with artifacts in `runs/mlartifacts/`; the trainings of a
    study share one in the study's folder, and are children of the study's run.
    """

    failures = (MlflowException,)

    def __init__(self, run: TrackedRun) -> None:
        folder = os.environ.get(FOLDER_VARIABLE) or run.folder.resolve().parent
        artifacts = choose_store(Path(folder))
        super().__init__(
            run.experiment, logging_dir=artifacts, run_id=run.run_id, run_name=run.name
        )
        store = mlflow.get_tracking_uri()
        if store.startswith("sqlite:"):
            self.viewer = f"mlflow ui --backend-store-uri {shlex.quote(store)}"
        self.run_dir = run.folder
        self.logged_until: dict[str, int] = {}
        self.has_final_model = False

    def start(self) -> None:
        """Start the run, or continue it if the server still has it."""
        client = MlflowClient()
        create_experiment(client, self.experiment_name, self.logging_dir)
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
        if os.environ.get(PARENT_VARIABLE):
            mlflow.set_tag(MLFLOW_PARENT_RUN_ID, os.environ[PARENT_VARIABLE])

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
        """Log the settings, the files of `final/`, and a model that `mlflow.pyfunc` loads.

        The model is code and the files of `final/`; nothing is pickled.
        """
        self.log_artifact(str(self.run_dir / "experiment.yaml"))
        self.log_artifacts(str(final), artifact_path="final")
        width = json.loads((final / "config.json").read_text())["experiment"]["data"]["width"]
        pages = TensorSpec(np.dtype(np.float32), (-1, 1, -1, width))
        latents = TensorSpec(np.dtype(np.float32), (-1, -1))
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(MODEL_CODE),
            artifacts={"final": str(final)},
            signature=ModelSignature(inputs=Schema([pages]), outputs=Schema([latents])),
            input_example=np.zeros((1, 1, 16, width), np.float32),
            pip_requirements=["vaetrain", "torch", "numpy"],
            step=step,
        )
        self.has_final_model = True

    def finish(self) -> None:
        """End the run as FINISHED, or as KILLED before its final model."""
        mlflow.end_run("FINISHED" if self.has_final_model else "KILLED")
