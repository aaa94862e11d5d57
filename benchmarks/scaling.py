"""How training scales over ranks here, what that says of N devices, and what 10^8 samples cost.

    python -m benchmarks.scaling --out runs/benchmarks
    python -m benchmarks.scaling --step-ms 18 --micro-batch 32     of a device that isn't here

Weak and strong scaling over one and two ranks, by engine; a model of a step, calibrated on single
ranks and a link, its prediction for two ranks beside the measurement, and projected to N; and an
index of 10^8 samples, ordered for 1,024 ranks. Writes scaling.json and scaling.png.
"""

from __future__ import annotations

import argparse
import contextlib
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
from benchmarks.support.trainer_process import TrainerProcess
from shards import cli

RANKS, WITHIN = 2, 0.1
ROWS = 256  # of every page here: all steps are the same work
ONE, BESIDE, TWICE = "1 rank", "1 rank beside another", "1 rank, twice the pages"
MEASURED, INDEX = "here, pages of 256 rows", "index"
REDUCED = tuple(4**power for power in range(6, 12))  # bytes of all-reduces, beside the gradients
PROJECTED = (1, 2, 4, 8, 16, 64, 256, 1024)
PACKAGES = ("accelerate", "deepspeed", "torchvision")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

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
class Findings:
    """What was measured, by case and round.

    steps: seconds of every step of a round.
    rates: images a second.
    links: what `link.measure` returned.
    """

    steps: dict[str, list[list[float]]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    links: list[dict[str, Any]] = field(default_factory=list)


def main() -> int:
    """Run the command; the exit status."""
    parser = harness.parser("scaling", __doc__)
    parser.add_argument("--experiment", default="default", help="whose model and losses")
    parser.add_argument("--micro-batch", type=int, default=8, help="pages of a rank's step")
    parser.add_argument("--step-ms", type=float, help="of one such device, to project from")
    arguments = parser.parse_args()
    report.publish(measure(arguments), arguments.out, scaling_plot.plot)
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the record."""
    sizes = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = measure_index(folder, sizes)
        with contextlib.ExitStack() as stack:
            ranks = Ranks(stack, tall_pages(folder), sizes, arguments)
            found, size = ranks.measure(), ranks.size
    measured, comparisons = told(found, sizes, size, arguments.micro_batch)
    alone = [s for round_ in found.steps[ONE] for s in round_]
    if arguments.step_ms is not None:
        alone = [arguments.step_ms / 1000]
    projected = project(alone, size, arguments.micro_batch)
    settings = {"seed": arguments.seed, "device": str(arguments.device), **asdict(sizes)}
    settings |= {"experiment": arguments.experiment, "micro_batch": arguments.micro_batch}
    settings |= {"step_ms": arguments.step_ms, "gradient_bytes": size}
    settings |= {"interconnects": [asdict(joined) for joined in model.INTERCONNECTS]}
    return report.record(
        "scaling",
        quick=arguments.quick,
        settings=settings,
        packages=PACKAGES,
        results=measured + projected + results,
        comparisons=comparisons,
    )


def tall_pages(folder: Path) -> Path:
    """Shards of those pages of the sample that fill `ROWS` rows."""
    layouts = [(line, json.loads(line)) for line in sample_lines()]
    tall = [line for line, page in layouts if page["h"] * 128 >= (ROWS + 1) * page["w"]]
    return build_shards(tall, folder / "tall")


class Ranks:
    """Trainers that take turns: of one process on each core, and of two for each engine.

    Attributes:
        found: what was measured so far.
        size: bytes of the model's gradients.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        shards: Path,
        sizes: Sizes,
        arguments: argparse.Namespace,
    ) -> None:
        """Start them all; `stack` ends them."""
        self.sizes, self.micro, self.seed = sizes, arguments.micro_batch, arguments.seed
        self.found = Findings()
        settings = [
            f"data.shards={shards}",
            "data.val_templates=[]",
            f"data.max_height={ROWS}",
            "model.start=random",
            f"train.seed={self.seed}",
            f"train.micro_batch_size={self.micro}",
        ]

        def start(engine: str, pages: int) -> TrainerProcess:
            own = [*settings, f"train.global_batch_size={pages}"]
            return stack.enter_context(TrainerProcess(engine, arguments.experiment, own))

        cores = sorted(os.sched_getaffinity(0))
        with on_core(cores[0]):
            self.one, self.twice = start("single", self.micro), start("single", 2 * self.micro)
        with on_core(cores[-1]):
            self.other = start("single", self.micro)
        self.engines = {engine: start(engine, RANKS * self.micro) for engine in sizes.engines}
        self.size = 4 * self.one("about")["parameters"]

    def measure(self) -> Findings:
        """All of them in interleaved rounds."""
        both = RANKS * self.micro
        cases = [
            self._steps(ONE, [self.one], self.micro),
            self._steps(BESIDE, [self.one, self.other], self.micro),
            self._steps(TWICE, [self.twice], 2 * self.micro),
            *[self._steps(named(name), [each], both) for name, each in self.engines.items()],
            Case("link", self._link),
        ]
        warmup = self.sizes.warmup
        timing = {"rounds": self.sizes.rounds, "warmup": warmup, "seed": self.seed}
        rates = harness.interleave(cases, device=torch.device("cpu"), **timing)
        del rates["link"]
        steps = {name: rounds[warmup:] for name, rounds in self.found.steps.items()}
        return Findings(steps, rates, self.found.links[warmup:])

    def _steps(self, name: str, workers: Sequence[TrainerProcess], pages: int) -> Case:
        def run() -> int:
            with ThreadPoolExecutor(len(workers)) as pool:
                taken = list(pool.map(lambda each: timed_steps(each, self.sizes.steps), workers))
            self.found.steps.setdefault(name, []).append([s for each in taken for s in each])
            return self.sizes.steps * pages

        return Case(name, run)

    def _link(self) -> int:
        sizes = sorted([*REDUCED, self.size])
        link = self.engines["ddp"]("measure_link", sizes=sizes, repeats=self.sizes.reduces)
        self.found.links.append(link | {"sizes": sizes})
        return 1


def named(engine: str) -> str:
    """What two ranks of an engine are reported as."""
    return f"{engine}, {RANKS} ranks"


def timed_steps(worker: TrainerProcess, count: int) -> list[float]:
    """Seconds of each of some steps."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        worker("train", count=1)
        seconds.append(time.perf_counter() - start)
    return seconds


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Have what is started keep to one core, with one thread."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def told(
    found: Findings, sizes: Sizes, size: int, micro: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results and comparisons of what was measured here, and of the prediction for it."""
    results = [report.result(MEASURED, name, "images/s", found.rates[name]) for name in found.rates]
    comparisons = []
    for engine in sizes.engines:
        predicted = [
            RANKS * micro / predict(computing, link, size, engine)
            for computing, link in zip(found.steps[BESIDE], found.links, strict=True)
        ]
        name = f"{named(engine)}, predicted"
        results.append(report.result(MEASURED, name, "images/s", predicted))
        near = WITHIN if engine == "ddp" else None
        comparisons += [
            report.compare(results, MEASURED, name, named(engine), None, within=near),
            report.compare(results, MEASURED, named(engine), ONE, None),
            report.compare(results, MEASURED, named(engine), TWICE, None),
        ]
    comparisons.append(report.compare(results, MEASURED, BESIDE, ONE, None))
    return results, comparisons


def predict(computing: Sequence[float], link: dict[str, Any], size: int, engine: str) -> float:
    """Seconds of a step of two ranks here, from one beside another and the link between them."""
    joined = model.fit_link(link["sizes"], link["seconds"])
    traffic = model.TRAFFIC[engine] * size
    sending = model.all_reduce_seconds(traffic, RANKS, joined, model.buckets(traffic))
    return model.step_seconds(computing, RANKS, sending, link["hidden"])


def project(computing: Sequence[float], size: int, micro: int) -> list[dict[str, Any]]:
    """Images a second on N such devices under DDP, for each assumed way to join them."""
    results = []
    for joined in model.INTERCONNECTS:
        one = model.step_seconds(computing, 1, 0.0, 0.0)
        for ranks in PROJECTED:
            sending = model.over_machines(size, ranks, joined)
            seconds = model.step_seconds(computing, ranks, sending, model.hidden_share(size))
            notes = {"of N times one": round(one / seconds, 3)}
            name = "1 rank" if ranks == 1 else f"{ranks:,} ranks"
            rate = [ranks * micro / seconds]
            results.append(
                report.result(f"projected: {joined.name}", name, "images/s", rate, notes)
            )
    return results


def measure_index(folder: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """What an index of ever more samples costs one of many ranks, at the start and on resuming."""
    sample = build_shards(sample_lines(), folder / "sample")
    results = []
    for samples in sizes.samples:
        place, name = folder / f"{samples}", f"{samples:,} samples"
        huge_index.write_index(place, sample, samples)
        rounds: dict[str, list[float]] = {}
        for number in range(sizes.rounds):
            rank = (number * 389) % sizes.ranks
            for key, epochs in (("first batch", 0.0), ("batch on resuming in epoch 3", 2.5)):
                huge_index.drop_page_cache(place)
                taken = huge_index.time_first_batch(place, sizes.ranks, rank, epochs)
                rounds.setdefault(key, []).append(taken["batch"])
                if not epochs:
                    rounds.setdefault("open", []).append(taken["open"])
                    rounds.setdefault("samples of the first step", []).append(taken["ids"])
        for key, seconds in rounds.items():
            group = f"{INDEX}: {key}, rank of {sizes.ranks:,}"
            results.append(report.result(group, name, "seconds", seconds, better="lower"))
        peak = huge_index.peak_memory(place, sizes.ranks) / 1e6
        disk = huge_index.disk_bytes(place) / 1e6
        results.append(
            report.result(f"{INDEX}: memory of a process", name, "MB", [peak], better="lower")
        )
        results.append(report.result(f"{INDEX}: on disk", name, "MB", [disk], better="lower"))
    return results


if __name__ == "__main__":
    cli.run("benchmarks.scaling", main)
