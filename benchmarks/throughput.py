"""Training: images and valid pixels per second, and where a step's time and memory go.

    python -m benchmarks.throughput [--experiment NAME] [--engines single ddp] [key=value ...]

Each engine trains in processes of its own, which take turns. Measured against a plain PyTorch loop
of the same model and losses on batches that lie on the device, and that against the same model
without masks. Writes throughput.json and throughput.png.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.support import device_peak, harness, report, traces
from benchmarks.support.device_peak import Peak
from benchmarks.support.flops import model_flops
from benchmarks.support.harness import Case
from benchmarks.support.trainer_process import (
    TrainerProcess,
    add_trainer_arguments,
    trainer_settings,
)
from shards import cli
from vaetrain.engines.engine_files import engine_names
from vaetrain.model.config import ModelConfig

FULL = {"rounds": 9, "warmup": 1, "steps": 4}
QUICK = {"rounds": 2, "warmup": 1, "steps": 1}
OVERHEAD = 1 / 1.03  # of the plain loop's rate that the trainer should reach
MASKS = 1 / 1.10  # of the rate without masks
RANKS = 0.90  # of one process' rate, on the same cores
BARE, UNMASKED = "plain loop, batches on the device", "plain loop, no masks"
RATES, SHARES = "images per second", "share of a step"
PHASES = {
    "data": "waiting for data",
    "augment": "drawing and augmenting",
    "forward": "forward",
    "loss": "losses",
    "backward": "backward",
    "optimizer": "clipping, optimizer, average",
    "log": "logging",
    "validation": "validation",
    "checkpoint": "checkpoints",
    "other": "between these",
}


def main() -> int:
    """Run the command; the exit status."""
    parser = harness.parser("throughput", __doc__)
    add_trainer_arguments(parser)
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=engine_names(),
        default=["single"],
        metavar="ENGINE",
        help=f"which take turns: {', '.join(engine_names())} (default single)",
    )
    parser.add_argument("--steps", type=int, help="optimizer steps a round (default 4)")
    parser.add_argument("--rounds", type=int, help="rounds that count (default 9)")
    arguments = parser.parse_intermixed_args()
    report.publish(measure(arguments), arguments.out)
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the record."""
    sizes = QUICK if arguments.quick else FULL
    asked = {"steps": arguments.steps, "rounds": arguments.rounds}
    sizes = sizes | {name: value for name, value in asked.items() if value is not None}
    timing = {"rounds": sizes["rounds"], "warmup": sizes["warmup"]}
    timing |= {"device": torch.device("cpu"), "seed": arguments.seed}  # the workers wait for theirs
    settings = trainer_settings(arguments)
    found = report.Entries()
    with contextlib.ExitStack() as started:
        workers = [
            started.enter_context(TrainerProcess(engine, arguments.experiment, settings))
            for engine in arguments.engines
        ]
        abouts = {worker.engine: worker("about") for worker in workers}
        precision = abouts[workers[0].engine]["precision"]
        best = device_peak.measure(
            arguments.device, precision, quick=arguments.quick, seed=arguments.seed
        )
        found.results += best.results
        measure_rates(workers, sizes["steps"], timing, abouts, best, found)
        for worker in workers:
            about = abouts[worker.engine]
            measure_shares(worker, sizes["steps"], timing, about, found)
            measure_memory(worker, sizes["steps"], found)
    told = {**timing, "device": abouts[workers[0].engine]["device"], "steps": sizes["steps"]}
    told |= {"experiment": arguments.experiment, "settings": settings, "engines": abouts}
    return report.record(
        "throughput",
        quick=arguments.quick,
        settings=told,
        packages=("accelerate", "deepspeed"),
        **vars(found),
    )


class Turns:
    """An engine's turns at training, and what each of them was of."""

    def __init__(self, worker: TrainerProcess, steps: int) -> None:
        self.worker, self.steps = worker, steps
        self.told: list[dict[str, Any]] = []

    def __call__(self) -> int:
        self.told.append(self.worker("train", count=self.steps))
        return self.told[-1]["images"]


def measure_rates(
    workers: Sequence[TrainerProcess],
    steps: int,
    timing: dict[str, Any],
    abouts: dict[str, dict[str, Any]],
    best: Peak,
    found: report.Entries,
) -> None:
    """Rates of all engines in interleaved rounds, of the first one's plain loops beside it."""
    turns = {worker.engine: Turns(worker, steps) for worker in workers}
    cases = [Case(f"ours, {engine}", run) for engine, run in turns.items()]
    alone = [worker for worker in workers if abouts[worker.engine]["ranks"] == 1]
    for worker in alone[:1]:
        blocks = timing["rounds"] + timing["warmup"]
        worker("lay_out", blocks=blocks, count=steps)
        for name, kind in ((BARE, "bare"), (UNMASKED, "unmasked")):
            cases.append(Case(name, lambda kind=kind, worker=worker: worker("loop", kind=kind)))
    rates = harness.interleave(cases, **timing)
    results = [report.result(RATES, case.name, "images/s", rates[case.name]) for case in cases]
    found.results += results
    first = f"ours, {workers[0].engine}"
    if alone:
        ours = f"ours, {alone[0].engine}"
        found.comparisons.append(report.compare(results, RATES, ours, BARE, OVERHEAD))
        found.comparisons.append(report.compare(results, RATES, BARE, UNMASKED, MASKS))
    else:
        found.missing.append(
            {"group": RATES, "name": BARE, "reason": "takes an engine of one rank"}
        )
    for worker in workers[1:]:
        ours = f"ours, {worker.engine}"
        found.comparisons.append(report.compare(results, RATES, ours, first, RANKS))
    for engine, run in turns.items():
        told = run.told[-timing["rounds"] :]
        add_utilisation(engine, rates[f"ours, {engine}"], told, abouts[engine], best, found)


def add_utilisation(
    engine: str,
    rates: Sequence[float],
    told: Sequence[dict[str, Any]],
    about: dict[str, Any],
    best: Peak,
    found: report.Entries,
) -> None:
    """Valid pixels and model FLOPs per second, and these as a share of the device's best."""
    model = ModelConfig(**about["model"])
    sizes = {size for turn in told for size in turn["sizes"]}
    flops = {
        (pages, rows, width): model_flops(model, width, about["max_height"], pages, rows)
        for pages, rows, width in sizes
    }
    on_gpu = torch.device(about["device"]).type == "cuda"
    pixels, shares = [], []
    for rate, turn in zip(rates, told, strict=True):
        counted = sum(times * flops[size] for size, times in turn["sizes"].items())
        # Ranks on a CPU share its cores, all of which its best was measured with.
        of_all = counted * (1 if on_gpu else about["ranks"])
        shares.append(100 * rate / turn["images"] * of_all / best.flops)
        pixels.append(rate * turn["pixels"] / turn["images"] / 1e6)
    notes = {"parameters": about["parameters"], "ranks": about["ranks"]}
    found.results += [
        report.result("valid pixels per second", f"ours, {engine}", "Mpx/s", pixels, notes),
        report.result("model FLOP utilisation", f"ours, {engine}", "% of the best", shares),
    ]


def measure_shares(
    worker: TrainerProcess,
    steps: int,
    timing: dict[str, Any],
    about: dict[str, Any],
    found: report.Entries,
) -> None:
    """Each phase's share of a step, what comes between steps spread over them."""
    turns = [worker("phases", count=steps) for _ in range(timing["rounds"])]
    between = worker("between_steps")
    group = f"{SHARES}, {worker.engine}"
    shares: dict[str, list[float]] = {}
    for turn in turns:
        seconds = turn | {name: turn.get(name, 0) + value for name, value in between.items()}
        whole = sum(seconds.values())
        for name, value in seconds.items():
            if value > 0:
                shares.setdefault(PHASES[name], []).append(100 * value / whole)
    found.results += [
        report.result(group, name, "%", values, better="neither") for name, values in shares.items()
    ]
    if about["ranks"] > 1:
        waited = communication(worker, steps)
        if any(waited):
            name = "of it all, waiting for other ranks"
            values = [100 * share for share in waited]
            found.results.append(report.result(group, name, "%", values, better="lower"))


def communication(worker: TrainerProcess, steps: int) -> list[float]:
    """The share of each step in which the main process does nothing but communicate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        worker("profile", count=steps, trace=str(path), shapes=False)
        trace = traces.read(path)
    seconds = trace.by_purpose().get(traces.COMMUNICATION, [0.0] * len(trace.steps))
    return [
        waited / (end - start) for waited, (start, end) in zip(seconds, trace.steps, strict=True)
    ]


def measure_memory(worker: TrainerProcess, steps: int, found: report.Entries) -> None:
    """The most bytes of tensors that a rank holds in some steps."""
    peak_mb = worker("peak_memory", count=steps) / 1e6
    name = f"ours, {worker.engine}"
    found.results.append(report.result("memory of a rank", name, "MB", [peak_mb], better="lower"))


if __name__ == "__main__":
    cli.run("benchmarks.throughput", main)
