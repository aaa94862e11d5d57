"""Run a study: train several settings of an experiment with several seeds, and write a report.

    python -m launch.sweep launch/experiments/beta_sweep.yaml
    python -m launch.sweep launch/experiments/beta_sweep.yaml sweep.engine=ddp train.epochs=5
    python -m launch.sweep launch/experiments/grid.yaml sweep.storage=postgresql://HOST/studies

Every training is an ordinary `accelerate launch`. The same command again continues the study.
Several processes that run it share the work; so do several machines if `sweep.storage` is the URL
of a database. If a training fails, its setting is recorded as failed and the study continues. The
report is written to runs/NAME/report.html and report.md.
"""

from __future__ import annotations

import argparse
import fcntl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.study import Study, describe_sweep, load_study
from shards import cli, optional_dependencies
from shards.errors import one_line
from vaetrain.cli import whole
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.settings import ConfigError
from vaetrain.trackers.registry import require_trackers

if TYPE_CHECKING:
    from launch.mlflow_study import StudyRun
    from launch.trials import Trials

SMOKE = ("train.max_images=1", "sweep.seeds=[0]", "sweep.pruner=none")


def main() -> int:
    """Run the command; return the exit status, 1 if a setting failed."""
    arguments = _parser().parse_intermixed_args()
    optional_dependencies.require("optuna", "sweep", "a sweep")
    study = load_study(arguments.study, arguments.settings)
    if arguments.smoke:
        smoke = (*SMOKE, f"name={study.name}-smoke")
        study = load_study(arguments.study, [*arguments.settings, *smoke])
    folder = arguments.run_dir or Path("runs") / study.name
    # Imported late: these take seconds to import, which `--help` must not wait for.
    from launch.report import best_first, table, write_report
    from launch.trials import Trials
    from vaetrain.data.loading import build_sample

    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder):
        if study.experiment.data.folder == SAMPLE_SHARDS:
            build_sample()  # once, before parallel trainings would build it at the same time
        trials = Trials(study, folder, stale_seconds=arguments.stale_after)
        trials.queue(retry_failed=arguments.retry_failed)
        tracked = start_tracking(study, trials, folder)
    with cli.progress(total=trials.total(), unit="setting", desc=study.name) as bar:

        def advance(line: str) -> None:
            bar.clear()
            print(line, flush=True)
            bar.n = trials.total() - trials.left()
            bar.refresh()

        trials.work(advance, limit=arguments.trials_per_process)
    failed = trials.failures()
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    if left := trials.left():
        print(f"{left} settings are left; run the same command again to continue")
    outcomes = trials.outcomes()
    reports = write_report(study, outcomes, folder)
    if tracked is not None and not left:
        best = best_first(study, table(study, outcomes))[0]
        means = {name: interval.mean for name, interval in best.scores.items()}
        tracked.finish(reports, best.label, means, failed=bool(failed))
    for path in reports:
        print(path)
    return 1 if failed else 0


def start_tracking(study: Study, trials: Trials, folder: Path) -> StudyRun | None:
    """Start or continue the study's run in MLflow, if MLflow is one of its trackers.

    Raises ConfigError if the server cannot be reached.
    """
    if "mlflow" not in study.experiment.trackers:
        return None
    require_trackers(["mlflow"], "tracker=mlflow")
    from mlflow import MlflowException

    from launch.mlflow_study import StudyRun

    try:
        run = StudyRun(study, folder, trials.tracked_as)
    except MlflowException as error:
        raise ConfigError(f"tracker: mlflow: {one_line(str(error))[:300]}") from error
    trials.tracked_as = run.run_id
    trials.environment = run.environment
    return run


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="launch.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="settings of a study, in addition to those of the trainer (key=default, meaning, "
        f"allowed values):\n{describe_sweep()}",
    )
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY", help="YAML file, e.g. of launch/experiments/")
    add("--run-dir", type=Path, help="folder of the study; default: runs/<name of the study>")
    add("--trials-per-process", type=whole(1, 10**6), metavar="N", help="stop after N settings")
    add("--smoke", action="store_true", help="train one step of every setting as a test")
    add("--retry-failed", action="store_true", help="train failed settings again")
    add(
        "--stale-after",
        type=whole(2, 86400),
        default=60,
        metavar="SECONDS",
        help="take over a setting whose process sent no heartbeat for so long; default 60",
    )
    add("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser


@contextmanager
def exclusive_lock(folder: Path):
    """Lock a folder: two processes that create the database tables at once would fail."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    cli.run("launch.sweep", main)
