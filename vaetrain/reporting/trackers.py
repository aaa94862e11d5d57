"""Who is shown a run: TensorBoard, MLflow and Weights & Biases, through Accelerate's trackers.

A run that goes on is the same run to each of them: `trackers.json` in its directory says which.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

from shards.storage import write_atomic, writing
from vaetrain.config.experiment import Experiment
from vaetrain.reporting.projector import Projection
from vaetrain.settings import ConfigError

PROJECT = "vaetrain"  # MLflow's experiment and the project of Weights & Biases
RUN_IDS = "trackers.json"
LOCAL_STORE = "mlflow.db"


def start_trackers(experiment: Experiment, run_dir: Path, images: int) -> list[Any]:
    """The trackers that `experiment.tracker` names, each continuing its record of this run.

    Raises ConfigError in one line when one of them cannot be reached.
    """
    run_ids_file = run_dir / RUN_IDS
    run_ids = json.loads(run_ids_file.read_text()) if run_ids_file.exists() else {}
    trackers = []
    for name in experiment.trackers:
        if name == "tensorboard":
            tracker = TensorBoard("events", run_dir, purge_step=images + 1)
        else:
            kind = {"mlflow": MLflow, "wandb": WandB}[name]
            tracker = kind(run_dir, experiment.name, run_ids.get(name))
        try:
            tracker.start()
        except tracker.failures as error:
            raise ConfigError(f"tracker: {name}: {_one_line(error)}") from error
        trackers.append(tracker)
    known = {tracker.name: tracker.run_id for tracker in trackers if tracker.run_id}
    if run_ids | known:
        with writing(run_ids_file):
            write_atomic(run_ids_file, json.dumps(run_ids | known))
    return trackers


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class TensorBoard(TensorBoardTracker):
    """Event files in the run directory.

    Attributes:
        run_id: what its service knows the run by; None where there is no service.
        failures: exceptions by which the service says that it is not there.
    """

    run_id = None
    failures: tuple[type[Exception], ...] = (OSError,)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the settings until there are metrics to set them beside."""
        self.settings = values

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Show grey pictures, uint8 (H, W), by name."""
        stacks = {name: picture[None, :, :, None] for name, picture in pictures.items()}
        self.log_images(stacks, step=step, dataformats="NHWC")

    def log_projection(self, projection: Projection, step: int) -> None:
        """Show latents in the embedding projector, with the pages and what they are."""
        self.writer.add_embedding(
            projection.vectors,
            metadata=projection.names,
            metadata_header=projection.columns,
            label_img=projection.sprites,
            global_step=step,
            tag="latents",
        )

    def log_final_model(self, final: Path, metrics: dict[str, float], step: int) -> None:
        """Write the settings with the final metrics, for TensorBoard's table of runs.

        Models do not go into event files.
        """
        named = {f"final/{name}": value for name, value in metrics.items()}
        # In the run's own folder: by default it would become a run of its own.
        self.writer.add_hparams(self.settings, named, run_name=".", global_step=step)


class MLflow(MLflowTracker):
    """A run of MLflow's, on the server of MLFLOW_TRACKING_URI, else in a store beside the runs.

    The store is `runs/mlflow.db`, its artifacts lie in `runs/mlartifacts/`; see `TensorBoard` for
    the attributes.
    """

    def __init__(self, run_dir: Path, run_name: str, run_id: str | None) -> None:
        import mlflow

        self.failures = (mlflow.MlflowException,)
        artifacts = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            runs = run_dir.resolve().parent
            mlflow.set_tracking_uri(f"sqlite:///{runs / LOCAL_STORE}")
            artifacts = (runs / "mlartifacts").as_uri()
        super().__init__(PROJECT, logging_dir=artifacts, run_id=run_id, run_name=run_name)
        self.logged_until: dict[str, int] = {}
        self.handed_over = False

    def start(self) -> None:
        """Begin the run, or go on with it where the server still knows it."""
        import mlflow

        client = mlflow.MlflowClient()
        self._make_experiment(client)
        if self.run_id is not None:
            try:
                known = client.get_run(self.run_id).data.metrics
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self.run_id, known = None, {}
            for name in known:
                history = client.get_metric_history(self.run_id, name)
                self.logged_until[name] = max(point.step for point in history)
        super().start()
        self.run_id = self.active_run.info.run_id

    def _make_experiment(self, client: Any) -> None:
        """Of two runs that start together, one makes it."""
        import mlflow

        if client.get_experiment_by_name(self.experiment_name) is None:
            try:
                client.create_experiment(self.experiment_name, self.logging_dir)
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Log the settings; what changed since the run was started becomes a tag.

        A parameter of MLflow's is written once.
        """
        import mlflow

        known = mlflow.get_run(self.run_id).data.params
        changed = {key: value for key, value in values.items() if known.get(key, value) != value}
        if changed:
            mlflow.set_tags(changed)
        super().store_init_configuration({k: v for k, v in values.items() if k not in known})

    def log(self, values: dict[str, float], step: int, **options: Any) -> None:
        """Log numbers; a point that the run has from before an interruption is not repeated."""
        new = {key: v for key, v in values.items() if step > self.logged_until.get(key, -1)}
        if new:
            super().log(new, step=step, **options)

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Show grey pictures, uint8 (H, W), by name."""
        import mlflow

        for name, picture in pictures.items():
            mlflow.log_image(picture, key=name, step=step)

    def log_final_model(self, final: Path, metrics: dict[str, float], step: int) -> None:
        """Keep the finished model and its pictures as artifacts, under `final/`."""
        self.log_artifacts(str(final), artifact_path="final")
        self.handed_over = True

    def finish(self) -> None:
        """End the run, saying whether it came to its end."""
        import mlflow

        mlflow.end_run("FINISHED" if self.handed_over else "KILLED")


class WandB(WandBTracker):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run directory.

    See `TensorBoard` for the attributes.
    """

    def __init__(self, run_dir: Path, run_name: str, run_id: str | None) -> None:
        import wandb

        self.failures = (wandb.errors.Error,)
        self.run_id = run_id or secrets.token_hex(4)
        super().__init__(
            os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(run_dir),
            name=run_name,
            id=self.run_id,
            resume="allow",
            settings=wandb.Settings(quiet=True),
        )

    def log_pictures(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Show grey pictures, uint8 (H, W), by name."""
        self.log_images({name: [picture] for name, picture in pictures.items()}, step=step)

    def log_final_model(self, final: Path, metrics: dict[str, float], step: int) -> None:
        """Keep the finished model and its pictures as an artifact."""
        import wandb

        artifact = wandb.Artifact(f"final-{self.run_id}", type="model")
        artifact.add_dir(str(final))
        self.run.log_artifact(artifact)
