"""Run a study: many settings of an experiment, several seeds of each, and a report on them.

    python -m launch.sweep launch/experiments/beta_sweep.yaml
    python -m launch.sweep launch/experiments/beta_sweep.yaml sweep.engine=ddp train.epochs=5
    python -m launch.sweep launch/experiments/grid.yaml sweep.storage=postgresql://HOST/studies

Every training is an ordinary `accelerate launch`. The same command again goes on with the study,
and given to several processes or, with an address in `sweep.storage`, to several machines, they
share the work. A setting whose training fails is recorded, and the study goes on. The report is
written to runs/NAME/report.html and report.md.
"""

from __future__ import annotations

import argparse
import fcntl
from contextlib import contextmanager
from pathlib import Path

from launch.study import describe_sweep, load_study
from shards import cli, extras
from vaetrain.cli import whole
from vaetrain.data.config import SAMPLE_SHARDS

SMOKE = ("train.max_images=1", "sweep.seeds=[0]", "sweep.pruner=none")


def main() -> int:
    """Run the command; the exit status: 1 when a setting failed."""
    arguments = _parser().parse_intermixed_args()
    extras.require("optuna", "sweep", "a sweep")
    study = load_study(arguments.study, arguments.settings)
    if arguments.smoke:
        smoke = (*SMOKE, f"name={study.name}-smoke")
        study = load_study(arguments.study, [*arguments.settings, *smoke])
    folder = arguments.run_dir or Path("runs") / study.name
    # Imported only now: they take seconds, and `--help` must not wait for them.
    from launch.report import write_report
    from launch.trials import Trials
    from vaetrain.data.loading import build_sample

    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if study.experiment.data.folder == SAMPLE_SHARDS:
            build_sample()  # once, before several trainings would at the same time
        trials = Trials(study, folder, stale_seconds=arguments.stale_after)
        trials.queue(retry_failed=arguments.retry_failed)
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
        print(f"{left} settings are left; the same command goes on with them")
    for path in write_report(study, trials.outcomes(), folder):
        print(path)
    return 1 if failed else 0


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="launch.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="settings of a study, beside those of the trainer (key=default, meaning, what is "
        f"allowed):\n{describe_sweep()}",
    )
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY", help="YAML file, e.g. of launch/experiments/")
    add("--run-dir", type=Path, help="the study's folder; default: runs/<name of the study>")
    add("--trials-per-process", type=whole(1, 10**6), metavar="N", help="leave after N settings")
    add("--smoke", action="store_true", help="one step of every setting: would it run?")
    add("--retry-failed", action="store_true", help="try settings that failed again")
    add(
        "--stale-after",
        type=whole(2, 86400),
        default=60,
        metavar="SECONDS",
        help="take a setting over from a process that gave no sign of life for so long; default 60",
    )
    add("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser


@contextmanager
def alone(folder: Path):
    """Hold off other processes that start on the same folder: two would make its tables at once."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    cli.run("launch.sweep", main)
