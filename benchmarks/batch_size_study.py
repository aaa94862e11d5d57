"""Batch-size study: speed, memory, gradient noise, time to a validation loss, and advice.

    python -m benchmarks.batch_size_study --experiment default --out runs/benchmarks
    python -m benchmarks.batch_size_study --memory 24,80 --batches 16,64,256 data.shards=data/mine

Measures training steps over micro batch, accumulation, precision, memory format, checkpointing and
compilation. Predicts their peak memory on this device and on CUDA, which need not be available, and
the largest micro batch for each size of memory. Trains at several global batches until a validation
loss is reached, and measures the gradient noise scale at the checkpoints. Writes
batch_size_study.json and .png. The trainings are in batch_size_study/ beside them; the same command
resumes them after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.support import harness, report
from benchmarks.support.batch_size import plots, time_to_target
from benchmarks.support.batch_size.advice import advice, check
from benchmarks.support.batch_size.setups import OPTIONS, PLAIN
from benchmarks.support.batch_size.study import BatchSizeStudy, Plan, spread
from shards import cli
from shards.errors import UserError
from vaetrain.cli import whole
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import as_dict, load_experiment

PACKAGES = ("scipy", "matplotlib")

QUICK = Plan(
    micros=(1, 2, 4),
    batches=(2, 4),
    options=(PLAIN, "channels last"),
    images=64,
    validations=4,
    noise_pages=32,
    memory=(8,),
    rounds=2,
)
QUICK_SETTINGS = (
    "data.width=32",
    "data.max_height=64",
    "model.start=random",
    "train.global_batch_size=2",
)


def measure(
    study: BatchSizeStudy, folder: Path, target: float | None, quick: bool
) -> dict[str, Any]:
    """Run the whole study and return its record, with `details` of schema `advice.DETAILS`.

    Args:
        folder: for the trainings.
        target: validation loss to reach; None: see `time_to_target.compare`.

    Raises UserError if the experiment's own batch does not fit in memory.
    """
    plan = study.plan
    if not study.fits(study.own):
        raise UserError(
            "train.global_batch_size: its micro batch does not fit in the device's memory; lower it"
        )
    # Trainings come first: they take longest, and are resumed after an interruption.
    batches = [batch for batch in plan.batches if study.fits(study.at_batch(batch))]
    brief = time_to_target.brief(study.experiment, plan.images, plan.validations)
    target, runs = time_to_target.compare(brief, batches, plan.rules, folder, target)
    noise = study.measure_noise(runs[0].folder)
    peaks, fits, speeds = study.measure_memory(), study.measure_fits(), study.measure_speed()
    details = {
        "batch": study.experiment.train.global_batch_size,
        "memory": peaks,
        "fits": fits,
        "speed": [asdict(setup) | spread(rate) for setup, rate in speeds.items()],
        "options": study.options,
        "target": target,
        "trainings": [
            training_entry(run, target, speeds[study.at_batch(run.batch)]) for run in runs
        ],
        "noise": noise,
    }
    details["advice"] = advice(details)
    settings = {"seed": study.seed, "device": str(study.device), **asdict(plan)}
    settings["experiment"] = as_dict(study.experiment)
    return report.record(
        "batch_size_study",
        quick=quick,
        settings=settings,
        packages=PACKAGES,
        results=study.results,
        comparisons=study.comparisons,
        missing=study.missing,
        details=details,
    )


def training_entry(run: time_to_target.Run, target: float, speed: dict[str, Any]) -> dict[str, Any]:
    """Return a training's entry of the record.

    Its seconds are its images divided by the speed in interleaved rounds. Trainings run one after
    the other, so their own times would differ by machine noise.
    """
    images, rate = run.images_to(target), speed["median"]
    return {
        "batch": run.batch,
        "rule": run.rule,
        "lr": run.lr,
        "curve": [list(point) for point in run.curve],
        "images_per_second": rate,
        "images": images,
        "seconds": None if images is None else images / rate,
    }


def main() -> int:
    """Run the command and return the exit status."""
    arguments = _parser().parse_intermixed_args()
    given = {
        name: value
        for name in (f.name for f in fields(Plan))
        if (value := getattr(arguments, name, None)) is not None
    }
    plan = replace(QUICK if arguments.quick else Plan(), **given)
    settings = [*(QUICK_SETTINGS if arguments.quick else ()), *arguments.settings]
    experiment = load_experiment(experiment_path(arguments.experiment), settings)
    study = BatchSizeStudy(experiment, plan, arguments.device, arguments.seed)
    folder = arguments.out / "batch_size_study"
    record = measure(study, folder, arguments.target, arguments.quick)
    check(record["details"])
    report.publish(record, arguments.out, plots.plot)
    print("\n" + "\n".join(record["details"]["advice"]))
    return 0


def _parser() -> cli.Parser:
    parser = harness.parser("batch_size_study", __doc__)
    add = parser.add_argument
    add("--experiment", help="YAML file, or a name in launch/experiments/")
    add("--micros", type=_numbers, metavar="N,N", help="micro batches to time")
    add("--batches", type=_numbers, metavar="N,N", help="global batches to train at")
    add(
        "--options",
        type=_names(OPTIONS),
        metavar="A,B",
        help=f"options to time, of {', '.join(OPTIONS)}",
    )
    add("--rules", type=_names(time_to_target.RULES), metavar="A,B", help=RULES_HELP)
    add("--images", type=whole(16, 10**9), help=f"images of a training; default {Plan.images}")
    add("--target", type=float, metavar="LOSS", help=TARGET_HELP)
    add(
        "--noise-pages",
        type=whole(16, 10**9),
        help=f"pages of the gradient noise scale; default {Plan.noise_pages}",
    )
    add("--memory", type=_numbers, metavar="GIB,GIB", help="memory sizes to fit micro batches into")
    add("--rounds", type=whole(1, 1000), help=f"rounds of timing; default {Plan.rounds}")
    add("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser


RULES_HELP = (
    "scaling of the learning rate with the batch: none, sqrt (default) or linear, or several"
)
TARGET_HELP = (
    "validation loss to reach; default: the last one of the experiment's own batch. Other batches "
    f"stop after {time_to_target.LONGER} times its images"
)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(whole(1, 10**6)(part) for part in text.split(","))


def _names(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown {name!r}; choose from {', '.join(known)}"
                )
        return names

    return parse


if __name__ == "__main__":
    cli.run("benchmarks.batch_size_study", main)
