"""Scaling over ranks, measured for two and projected to N; cost of an index of 10^8 samples.

    python -m benchmarks.scaling --out runs/benchmarks
    python -m benchmarks.scaling --step-ms 18 --micro-batch 32     # step time of another device

The command measures weak and strong scaling over one and two ranks, for each engine. A model of the
step time is calibrated with single ranks and with the link between two ranks; it predicts the step
time of two ranks and of N ranks. The command also measures an index of up to 10^8 samples, ordered
for 1,024 ranks. It writes scaling.json and scaling.png.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.support import harness, huge_index, report, scaling_plot
from benchmarks.support import scaling_model as model
from benchmarks.support.harness import Case
from benchmarks.support.sample_pages import build_shards, sample_lines
from benchmarks.support.trainer_process import TrainerProcess, thread_budget
from shards import cli

RANKS, WITHIN = 2, 0.1
ROWS = 256  # rows of every page, so that all steps have the same amount of work
ONE, BESIDE, TWICE = "1 rank", "1 rank beside another", "1 rank, twice the pages"
MEASURED, INDEX = "here, pages of 256 rows", "index"
# Bytes of the all-reduces that are measured in addition to the all-reduce of the gradients.
REDUCED = tuple(4**power for power in range(6, 12))
PROJECTED = (1, 2, 4, 8, 16, 64, 256, 1024)
PACKAGES = ("accelerate", "deepspeed", "torchvision")


@dataclass(frozen=True)
class Sizes:
    """Amount of work: rounds; steps and all-reduces per round; samples and ranks of an index."""

    engines: tuple[str, ...]
    rounds: int
    warmup: int
    steps: int
    reduces: int
    samples: tuple[int, ...]
    ranks: int


FULL = Sizes(tuple(model.TRAFFIC), 5, 1, 8, 15, (10**5, 10**6, 10**7, 10**8), 1024)
QUICK = Sizes(("ddp",), 2, 1, 3, 3, (10**5, 10**6), 1024)


@dataclass
class ScalingMeasurements:
    """Measurements by case and round.

    Attributes:
        steps: seconds of every step of a round.
        rates: images a second.
        links: results of `all_reduce_speed.measure`, with the key `sizes` added.
        threads: CPU threads of the ranks whose images are counted, by case; None on a GPU.
    """

    steps: dict[str, list[list[float]]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    links: list[dict[str, Any]] = field(default_factory=list)
    threads: dict[str, int | None] = field(default_factory=dict)


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("scaling", __doc__)
    parser.add_argument(
        "--experiment",
        default="default",
        help="experiment with the model and losses; default 'default'",
    )
    parser.add_argument(
        "--micro-batch", type=int, default=8, help="pages of a rank's step; default 8"
    )
    parser.add_argument(
        "--step-ms", type=float, help="step time of one device to project from; default: measured"
    )
    arguments = parser.parse_args()
    report.publish(measure(arguments), arguments.out, scaling_plot.plot)
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the whole benchmark and return its record."""
    sizes = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index_entries = measure_index(folder, sizes)
        with contextlib.ExitStack() as stack:
            trainers = ScalingTrainers(stack, tall_pages(folder), sizes, arguments)
            measured, size = trainers.measure(), trainers.gradient_bytes
    rates, comparisons = measured_entries(measured, sizes, size, arguments.micro_batch)
    computing = [seconds for steps in measured.steps[ONE] for seconds in steps]
    if arguments.step_ms is not None:
        computing = [arguments.step_ms / 1000]
    projected = project(computing, size, arguments.micro_batch)
    settings = {"seed": arguments.seed, "device": str(arguments.device), **asdict(sizes)}
    settings |= {"experiment": arguments.experiment, "micro_batch": arguments.micro_batch}
    settings |= {"step_ms": arguments.step_ms, "gradient_bytes": size}
    settings |= {"interconnects": [asdict(each) for each in model.INTERCONNECTS]}
    return report.record(
        "scaling",
        quick=arguments.quick,
        settings=settings,
        packages=PACKAGES,
        results=rates + projected + index_entries,
        comparisons=comparisons,
    )


def tall_pages(folder: Path) -> Path:
    """Build shards of the sample's pages that fill `ROWS` rows."""
    layouts = [(line, json.loads(line)) for line in sample_lines()]
    tall = [line for line, page in layouts if page["h"] * 128 >= (ROWS + 1) * page["w"]]
    return build_shards(tall, folder / "tall")


class ScalingTrainers:
    """Single-rank trainers, each pinned to one core, and a two-rank trainer for each engine.

    Attributes:
        measured: measurements so far, including warm-up rounds.
        gradient_bytes: size of the model's gradients.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        shards: Path,
        sizes: Sizes,
        arguments: argparse.Namespace,
    ) -> None:
        """Start all trainers; they end when `stack` is closed."""
        self.sizes, self.micro, self.seed = sizes, arguments.micro_batch, arguments.seed
        self.measured = ScalingMeasurements()
        settings = [
            f"data.shards={shards}",
            "data.val_templates=[]",
            f"data.max_height={ROWS}",
            "model.start=random",
            f"train.seed={self.seed}",
            f"train.micro_batch_size={self.micro}",
        ]

        def start(engine: str, pages: int, ranks: int = 1) -> TrainerProcess:
            full = [*settings, f"train.global_batch_size={pages}"]
            trainer = TrainerProcess(engine, arguments.experiment, full, ranks)
            return stack.enter_context(trainer)

        cores = sorted(os.sched_getaffinity(0))
        with on_core(cores[0]):
            self.one, self.twice = start("single", self.micro), start("single", 2 * self.micro)
        with on_core(cores[-1]):
            self.other = start("single", self.micro)
        # The number is given: the default is a rank for each GPU, and two ranks are measured here.
        self.engines = {
            engine: start(engine, RANKS * self.micro, RANKS) for engine in sizes.engines
        }
        self.gradient_bytes = 4 * self.one("about")["parameters"]

    def measure(self) -> ScalingMeasurements:
        """Measure all cases in interleaved rounds."""
        both = RANKS * self.micro
        cases = [
            self._steps(ONE, [self.one], self.micro),
            self._steps(BESIDE, [self.one, self.other], self.micro),
            self._steps(TWICE, [self.twice], 2 * self.micro),
            *[self._steps(two_ranks(name), [each], both) for name, each in self.engines.items()],
            Case("link", self._link),
        ]
        warmup = self.sizes.warmup
        timing = {"rounds": self.sizes.rounds, "warmup": warmup, "seed": self.seed}
        rates = harness.interleave(cases, device=torch.device("cpu"), **timing)
        del rates["link"]
        steps = {name: rounds[warmup:] for name, rounds in self.measured.steps.items()}
        links = self.measured.links[warmup:]
        return ScalingMeasurements(steps, rates, links, self.measured.threads)

    def _steps(self, name: str, trainers: Sequence[TrainerProcess], pages: int) -> Case:
        self.measured.threads[name] = thread_budget(trainers[0]("about"))

        def run() -> int:
            with ThreadPoolExecutor(len(trainers)) as pool:
                timed = list(pool.map(lambda each: timed_steps(each, self.sizes.steps), trainers))
            self.measured.steps.setdefault(name, []).append(list(itertools.chain(*timed)))
            return self.sizes.steps * pages

        return Case(name, run)

    def _link(self) -> int:
        sizes = sorted([*REDUCED, self.gradient_bytes])
        link = self.engines["ddp"]("measure_link", sizes=sizes, repeats=self.sizes.reduces)
        self.measured.links.append(link | {"sizes": sizes})
        return 1


def two_ranks(engine: str) -> str:
    """Return the name that the record uses for two ranks of an engine."""
    return f"{engine}, {RANKS} ranks"


def timed_steps(trainer: TrainerProcess, count: int) -> list[float]:
    """Return the seconds of each of `count` steps."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        trainer("train", count=1)
        seconds.append(time.perf_counter() - start)
    return seconds


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Pin processes that are started in this context to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measured_entries(
    measured: ScalingMeasurements, sizes: Sizes, size: int, micro: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return results and comparisons of the measured rates and of their predictions.

    Args:
        size: bytes of the gradients.
        micro: pages per step of one rank.
    """
    threads = measured.threads
    results = [
        report.result(MEASURED, name, "images/s", rates, threads=threads[name])
        for name, rates in measured.rates.items()
    ]
    # A prediction is of as many single ranks, each with the threads of one beside another.
    of_one = threads[BESIDE]
    of_prediction = None if of_one is None else RANKS * of_one
    comparisons = []
    for engine in sizes.engines:
        predicted = [
            RANKS * micro / predict(computing, link, size, engine)
            for computing, link in zip(measured.steps[BESIDE], measured.links, strict=True)
        ]
        name = f"{two_ranks(engine)}, predicted"
        results.append(report.result(MEASURED, name, "images/s", predicted, threads=of_prediction))
        within = WITHIN if engine == "ddp" else None
        comparisons += [
            report.compare(results, MEASURED, name, two_ranks(engine), None, within=within),
            report.compare(results, MEASURED, two_ranks(engine), ONE, None),
            report.compare(results, MEASURED, two_ranks(engine), TWICE, None),
        ]
    comparisons.append(report.compare(results, MEASURED, BESIDE, ONE, None))
    return results, comparisons


def predict(computing: Sequence[float], link: dict[str, Any], size: int, engine: str) -> float:
    """Predict the seconds of a two-rank step from single-rank steps and from the link.

    Args:
        computing: seconds of a rank's steps while another rank uses the second core.
        link: result of `all_reduce_speed.measure`, with the key `sizes` added.
        size: bytes of the gradients.
    """
    fitted = model.fit_link(link["sizes"], link["seconds"])
    traffic = model.TRAFFIC[engine] * size
    sending = model.all_reduce_seconds(traffic, RANKS, fitted, model.buckets(traffic))
    return model.step_seconds(computing, RANKS, sending, link["hidden"])


def project(computing: Sequence[float], size: int, micro: int) -> list[dict[str, Any]]:
    """Project images a second to N devices under DDP, for each assumed interconnect.

    Args:
        computing: seconds of one device's steps.
        size: bytes of the gradients.
        micro: pages per step of one rank.
    """
    results = []
    for interconnect in model.INTERCONNECTS:
        one = model.step_seconds(computing, 1, 0.0, 0.0)
        for ranks in PROJECTED:
            sending = model.over_machines(size, ranks, interconnect)
            seconds = model.step_seconds(computing, ranks, sending, model.hidden_share(size))
            notes = {"of N times one": round(one / seconds, 3)}
            name = "1 rank" if ranks == 1 else f"{ranks:,} ranks"
            rate = [ranks * micro / seconds]
            results.append(
                report.result(f"projected: {interconnect.name}", name, "images/s", rate, notes)
            )
    return results


def measure_index(folder: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Measure time and memory of one rank out of many, for indexes of growing size."""
    sample = build_shards(sample_lines(), folder / "sample")
    results = []
    for samples in sizes.samples:
        index, name = folder / f"{samples}", f"{samples:,} samples"
        huge_index.write_index(index, sample, samples)
        rounds: dict[str, list[float]] = {}
        for number in range(sizes.rounds):
            rank = (number * 389) % sizes.ranks
            for key, epochs in (("first batch", 0.0), ("batch on resuming in epoch 3", 2.5)):
                huge_index.drop_page_cache(index)
                seconds = huge_index.time_first_batch(index, sizes.ranks, rank, epochs)
                rounds.setdefault(key, []).append(seconds["batch"])
                if not epochs:
                    rounds.setdefault("open", []).append(seconds["open"])
                    rounds.setdefault("samples of the first step", []).append(seconds["ids"])
        for key, seconds in rounds.items():
            group = f"{INDEX}: {key}, rank of {sizes.ranks:,}"
            results.append(report.result(group, name, "seconds", seconds, better="lower"))
        peak = huge_index.peak_memory(index, sizes.ranks) / 1e6
        disk = huge_index.disk_bytes(index) / 1e6
        results.append(
            report.result(f"{INDEX}: memory of a process", name, "MB", [peak], better="lower")
        )
        results.append(report.result(f"{INDEX}: on disk", name, "MB", [disk], better="lower"))
    return results


if __name__ == "__main__":
    cli.run("benchmarks.scaling", main)
