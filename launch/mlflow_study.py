"""A study in MLflow: one store, one parent run, and a child run for every setting and seed."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from launch.study import Study
from vaetrain.trackers.mlflow import (
    FOLDER_VARIABLE,
    PARENT_VARIABLE,
    choose_store,
    create_experiment,
)

BEST_TAG = "best setting"


def describe(study: Study) -> str:
    """Return the description of a study's run, in Markdown."""
    judges = ", ".join(f"`{name}` ({direction})" for name, direction in study.judges.items())
    seeds = ", ".join(map(str, study.sweep.seeds))
    return (
        f"Settings of {', '.join(f'`{name}`' for name in study.space)}, each trained with the "
        f"seeds {seeds}: one child run for each setting and seed. Judged by {judges}.\n\n"
        f"Metrics `best/...` are of the setting in the tag `{BEST_TAG}`, means over its seeds. The "
        "report with all settings is `report.html`, under Artifacts."
    )


class StudyRun:
    """The parent run of a study, on the server of MLFLOW_TRACKING_URI or in the study's folder.

    Attributes:
        run_id: identifier of the run.
    """

    def __init__(self, study: Study, folder: Path, run_id: str | None) -> None:
        """Continue the run of an earlier start of the study, or create it.

        Args:
            folder: of the study.
            run_id: of an earlier start; None: this is the first.
        """
        self.folder = folder
        artifacts = choose_store(folder)
        self.client = MlflowClient()
        name = study.experiment.tracker.experiment
        create_experiment(self.client, name, artifacts)
        if run_id is None:
            experiment = self.client.get_experiment_by_name(name)
            # With the user, the program and the commit, as MLflow adds them to other runs.
            tags = resolve_tags({MLFLOW_RUN_NAME: study.name, MLFLOW_RUN_NOTE: describe(study)})
            run_id = self.client.create_run(experiment.experiment_id, tags=tags).info.run_id
            for key, value in study.definition().items():
                self.client.log_param(run_id, key, str(value)[:500])
        else:
            self.client.update_run(run_id, status="RUNNING")
        self.run_id = run_id

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a training a child of this run, in the same store."""
        return {FOLDER_VARIABLE: str(self.folder.resolve()), PARENT_VARIABLE: self.run_id}

    def finish(
        self, reports: list[Path], setting: str, best: dict[str, float], *, failed: bool
    ) -> None:
        """Log the reports and the best setting with its metrics, and end the run.

        Args:
            setting: label of the best setting.
            best: mean over seeds of each of its metrics; empty if no setting was measured.
        """
        for path in reports:
            self.client.log_artifact(self.run_id, str(path))
        charts = self.folder / "report"
        if charts.is_dir():
            self.client.log_artifacts(self.run_id, str(charts), "report")
        if best:
            self.client.set_tag(self.run_id, BEST_TAG, setting)
        for name, value in best.items():
            self.client.log_metric(self.run_id, f"best/{name}", value)
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")
