"""How large a batch? Speed, memory, gradient noise and time to a validation loss, and an advice.

    python -m benchmarks.batch_size_study --experiment default --out runs/benchmarks
    python -m benchmarks.batch_size_study --memory 24,80 --batches 16,64,256 data.shards=data/mine

Measures training steps over micro batches, accumulation, precision, memory layout, checkpointing
and compilation; predicts their memory here and on a CUDA device that need not be there, and the
largest micro batch that each size of memory holds; trains at several global batches until a
validation loss is reached, and measures the gradient noise scale on the way. Writes
batch_size_study.json and .png; trainings lie in batch_size_study/ beside them, and the same command
goes on with those that are left.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.support import harness, memory, report
from benchmarks.support.batch_size import gradient_noise, plots, time_to_target
from benchmarks.support.batch_size.advice import advice, check
from benchmarks.support.batch_size.setups import OPTIONS, PLAIN, Setup, with_option
from benchmarks.support.batch_size.trainer_step import (
    TrainerStep,
    cut,
    made_up_batch,
    pages_of_one_height,
)
from benchmarks.support.harness import Case
from shards import cli
from shards.errors import UserError
from vaetrain.artifacts import checkpoint
from vaetrain.cli import whole
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import Experiment, as_dict, load_experiment
from vaetrain.data.batching import cut_batch
from vaetrain.data.config import SAMPLE_SHARDS
from vaetrain.data.loading import TrainingData, build_sample
from vaetrain.engines.factory import start_engine
from vaetrain.engines.spec import running_launch
from vaetrain.model.vae import VAE

GIB = 2**30
CUDA = torch.device("cuda", 0)
PREDICTED = (PLAIN, "bf16", "checkpointing")  # what changes how much fits
PACKAGES = ("scipy", "matplotlib")
MOST_PAGES = 4096  # of a round of timing


@dataclass(frozen=True)
class Plan:
    """How much is done; what the command line says goes before it.

    Attributes:
        micros: micro batches that are timed, each divides the largest.
        batches: global batches that are trained at.
        options: of `OPTIONS`, timed at the experiment's own batch.
        rules: how the learning rate grows with the batch.
        images, validations: of each training.
        noise_pages: whose gradients are compared, at each of a training's checkpoints.
        memory: sizes to fill, GiB.
        rounds, warmup: of timing.
    """

    micros: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    batches: tuple[int, ...] = (8, 16, 32, 64)
    options: tuple[str, ...] = tuple(OPTIONS)
    rules: tuple[str, ...] = ("sqrt",)
    images: int = 8192
    validations: int = 16
    noise_pages: int = gradient_noise.PAGES
    memory: tuple[int, ...] = (8, 16, 24, 40, 80)
    rounds: int = 7
    warmup: int = 1


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


class BatchSizeStudy:
    """One experiment under study, on one device."""

    def __init__(self, experiment: Experiment, plan: Plan, device: torch.device, seed: int) -> None:
        """Open the experiment's shards; raises UserError in one line."""
        self.experiment, self.plan, self.device, self.seed = experiment, plan, device, seed
        self.engine = start_engine(running_launch(os.environ), "no")
        if experiment.data.folder == SAMPLE_SHARDS:
            build_sample()
        self.data = TrainingData(
            experiment.data,
            self.engine,
            VAE.stride,
            seed=experiment.train.seed,
            global_batch_size=experiment.train.global_batch_size,
        )
        self.own = self.at_batch(experiment.train.global_batch_size)
        self.pages = math.lcm(*plan.micros, *plan.batches, experiment.train.global_batch_size)
        if self.pages > MOST_PAGES:
            raise UserError(
                f"--micros, --batches: all must divide a batch of at most {MOST_PAGES} pages, "
                f"and these first divide {self.pages}"
            )
        self.results: list[dict[str, Any]] = []
        self.comparisons: list[dict[str, Any]] = []
        self.options: list[dict[str, Any]] = []
        self.missing: list[dict[str, str]] = []
        self.peak = cache(self._peak)  # bytes that a micro batch needs on a device, there or not

    def at_batch(self, batch: int) -> Setup:
        """How the trainer would cut a global batch on one device."""
        found = cut_batch(batch, None, world_size=1)
        return Setup(found.micro_batch, found.accumulation)

    @property
    def setups(self) -> list[Setup]:
        """All that is timed: micro batches of one global batch, global batches, options."""
        sweep = [Setup(micro, self.pages // micro) for micro in self.plan.micros]
        batches = map(self.at_batch, self.plan.batches)
        options = [replace(self.own, option=option) for option in self.plan.options]
        return list(dict.fromkeys([*sweep, *batches, self.own, *options]))

    # Memory: of the tallest pages there may be.

    def work(self, micro: int, option: str) -> memory.Work:
        """A training from its first tensor to the end of a step of two micro batches.

        Gradients are there from the second on; a step of one needs less, by at most their size.
        """
        experiment = with_option(self.experiment, option)
        size = (int(self.data.ladder[-1]), experiment.data.width)

        def run(device: torch.device) -> None:
            step = TrainerStep(experiment, device)
            step([made_up_batch(micro, size, device) for _ in range(2)])

        return run

    def _peak(self, micro: int, option: str, device: torch.device) -> int:
        # What is compiled decides for itself what it keeps; hardly more than otherwise.
        option = PLAIN if option == "compile" else option
        return memory.predict(self.work(micro, option), device)

    def holds(self, setup: Setup) -> bool:
        """Whether the device has the memory for a setup."""
        return self.peak(setup.micro, setup.option, self.device) < available(self.device)

    def measure_memory(self) -> list[dict[str, Any]]:
        """Peaks of all micro batches and options, predicted and, where they fit, measured."""
        sweep = [(micro, PLAIN) for micro in self.plan.micros]
        options = [(self.own.micro, name) for name in self.plan.options if name != "compile"]
        cases = list(dict.fromkeys([*sweep, *options]))
        rows = []
        for micro, option in cli.progress(cases, desc="memory", unit="case"):
            row = {"micro": micro, "option": option, "measured": None}
            row["predicted"] = self.peak(micro, option, self.device)
            row["cuda"] = self.peak(micro, option, CUDA)
            if self.holds(Setup(micro, 1, option)):
                row["measured"] = memory.measure(self.work(micro, option), self.device)
            rows.append(row)
        group = f"peak of a step, {self.data.ladder[-1]} x {self.experiment.data.width} px"
        self.results += [
            report.result(
                group,
                f"{row['micro']}, {row['option']}",
                "MB",
                [row["measured"] / 1e6],
                {"MB predicted": round(row["predicted"] / 1e6, 1)},
                better="lower",
            )
            for row in rows
            if row["measured"] is not None
        ]
        return rows

    def measure_fits(self) -> list[dict[str, Any]]:
        """The largest micro batch that fits sizes of memory on CUDA, by option."""
        cases = [
            (option, gib)
            for option in PREDICTED
            if option in self.plan.options
            for gib in self.plan.memory
        ]
        rows = []
        for option, gib in cli.progress(cases, desc="fitting", unit="size"):
            peak = partial(self.peak, option=option, device=CUDA)
            micro = memory.largest_that_fits(peak, gib * GIB)
            rows.append({"option": option, "gib": gib, "micro": micro})
        return rows

    # Speed: of the pages that are most frequent.

    def measure_speed(self) -> dict[Setup, dict[str, Any]]:
        """Images/s of every setup, in interleaved rounds over the same pages."""
        ids, rows = pages_of_one_height(self.data, self.pages)
        group = f"training steps, {rows} x {self.experiment.data.width} px"
        batches = cache(lambda micro: cut(self.data, ids, micro, self.device))
        steps = cache(lambda option: TrainerStep(with_option(self.experiment, option), self.device))

        def case(setup: Setup) -> Case:
            step, parts = steps(setup.option), batches(setup.micro)

            def run() -> int:
                starts = range(0, len(parts), setup.accumulation)
                return sum(step(parts[start : start + setup.accumulation]) for start in starts)

            return Case(setup.name, run)

        fitting = [setup for setup in self.setups if self.holds(setup)]
        for setup in set(self.setups) - set(fitting):
            reason = "would need more memory than there is"
            self.missing.append({"group": group, "name": setup.name, "reason": reason})
        rates = harness.interleave(
            [case(setup) for setup in fitting],
            rounds=self.plan.rounds,
            warmup=self.plan.warmup,
            device=self.device,
            seed=self.seed,
        )
        found = {
            setup: report.result(group, setup.name, "images/s", rates[setup.name])
            for setup in fitting
        }
        self.results += found.values()
        for setup in fitting:
            if setup.option != PLAIN:
                compared = report.compare(self.results, group, setup.name, self.own.name, None)
                self.comparisons.append(compared)
                named = {"micro": setup.micro, "option": setup.option}
                self.options.append(named | spread(compared))
        return found

    # Noise: at the checkpoints of the first training.

    def measure_noise(self, run_dir: Path) -> list[dict[str, Any]]:
        """The gradient noise scale along a training."""
        rows = []
        for path in checkpoint.saved(run_dir / "checkpoints"):
            saved = checkpoint.load(path)
            losses = gradient_noise.losses_at(self.experiment, saved, self.data, self.engine)
            found = gradient_noise.measure(
                losses, self.data, self.engine, seed=self.seed, pages=self.plan.noise_pages
            )
            rows.append({"images": saved.images, **found.as_json()})
        return rows


def available(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure(
    study: BatchSizeStudy, folder: Path, target: float | None, quick: bool
) -> dict[str, Any]:
    """BatchSizeStudy everything; the record, with `details` as `advice.DETAILS` says.

    Args:
        folder: where trainings lie.
        target: validation loss to reach; None: see `time_to_target.compare`.
    """
    plan = study.plan
    if not study.holds(study.own):
        raise UserError("train.global_batch_size: its micro batch needs more memory than there is")
    # First what takes longest, and is not done again after an interruption.
    batches = [batch for batch in plan.batches if study.holds(study.at_batch(batch))]
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
        "trainings": [told(run, target, speeds[study.at_batch(run.batch)]) for run in runs],
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


def spread(entry: dict[str, Any]) -> dict[str, float]:
    """The quartiles of an entry of a record."""
    return {name: entry[name] for name in ("q1", "median", "q3")}


def told(run: time_to_target.Run, target: float, speed: dict[str, Any]) -> dict[str, Any]:
    """A training in JSON.

    Its seconds are its images at the speed that was measured in interleaved rounds: trainings come
    one after the other, and the machine's moods would tell them apart.
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
    """Run the command; the exit status."""
    arguments = _parser().parse_intermixed_args()
    wanted = {
        name: value
        for name in (f.name for f in fields(Plan))
        if (value := getattr(arguments, name, None)) is not None
    }
    plan = replace(QUICK if arguments.quick else Plan(), **wanted)
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
    add("--options", type=_names(OPTIONS), metavar="A,B", help=f"of {', '.join(OPTIONS)}")
    add("--rules", type=_names(time_to_target.RULES), metavar="A,B", help=RULES_HELP)
    add("--images", type=whole(16, 10**9), help=f"of a training; default {Plan.images}")
    add("--target", type=float, metavar="LOSS", help=TARGET_HELP)
    add("--noise-pages", type=whole(16, 10**9), help=f"default {Plan.noise_pages}")
    add("--memory", type=_numbers, metavar="GIB,GIB", help="sizes to fill, GiB")
    add("--rounds", type=whole(1, 1000), help=f"of timing; default {Plan.rounds}")
    add("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser


RULES_HELP = (
    "how the learning rate grows with the batch: none, sqrt (default), linear; several compare them"
)
TARGET_HELP = (
    "validation loss to reach; default: what the experiment's own batch ends with; the others may "
    f"take {time_to_target.LONGER} times its images"
)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(whole(1, 10**6)(part) for part in text.split(","))


def _names(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    cli.run("benchmarks.batch_size_study", main)
