"""Training throughput, model FLOP utilisation, shares of a step's time, and memory of a rank.

    python -m benchmarks.throughput [--experiment NAME] [--engines single ddp] [key=value ...]

Each engine trains in its own processes, in interleaved rounds. The trainer is compared with a plain
PyTorch loop of the same model and losses on batches that are on the device already, and that loop
with one of the same model without masks. Writes throughput.json and throughput.png.
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
    thread_budget,
    trainer_settings,
)
from shards import cli
from vaetrain.engines.engine_files import engine_names
from vaetrain.model.config import ModelConfig

FULL = {"rounds": 9, "warmup": 1, "steps": 4}
QUICK = {"rounds": 2, "warmup": 1, "steps": 1}
OVERHEAD_TARGET = 1 / 1.03  # of the plain loop's rate
MASKS_TARGET = 1 / 1.10  # of the rate without masks
RANKS_TARGET = 0.90  # of one process's rate, on the same cores
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
    """Run the command and return the exit status."""
    parser = harness.parser("throughput", __doc__)
    add_trainer_arguments(parser)
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=engine_names(),
        default=["single"],
        metavar="ENGINE",
        help=f"engines to compare: {', '.join(engine_names())} (default single)",
    )
    parser.add_argument("--steps", type=int, help="optimizer steps a round (default 4)")
    parser.add_argument("--rounds", type=int, help="rounds that count (default 9)")
    arguments = parser.parse_intermixed_args()
    report.publish(measure(arguments), arguments.out)
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the whole benchmark and return its record."""
    sizes = dict(QUICK if arguments.quick else FULL)
    for name in ("steps", "rounds"):
        if getattr(arguments, name) is not None:
            sizes[name] = getattr(arguments, name)
    timing = {"rounds": sizes["rounds"], "warmup": sizes["warmup"]}
    # Trainer processes synchronise their own devices.
    timing |= {"device": torch.device("cpu"), "seed": arguments.seed}
    settings = trainer_settings(arguments)
    entries = report.Entries()
    with contextlib.ExitStack() as stack:
        trainers = [
            stack.enter_context(TrainerProcess(engine, arguments.experiment, settings))
            for engine in arguments.engines
        ]
        abouts = {trainer.engine: trainer("about") for trainer in trainers}
        first = abouts[trainers[0].engine]
        peak = device_peak.measure(
            arguments.device, first["precision"], quick=arguments.quick, seed=arguments.seed
        )
        entries.results += peak.results
        measure_rates(trainers, sizes["steps"], timing, abouts, peak, entries)
        for trainer in trainers:
            about = abouts[trainer.engine]
            measure_shares(trainer, sizes["steps"], timing, about, entries)
            measure_memory(trainer, sizes["steps"], entries)
    return report.record(
        "throughput",
        quick=arguments.quick,
        settings={
            **timing,
            "device": first["device"],
            "steps": sizes["steps"],
            "experiment": arguments.experiment,
            "settings": settings,
            "engines": abouts,
        },
        packages=("accelerate", "deepspeed"),
        **vars(entries),
    )


class TrainingRounds:
    """Rounds of a trainer; calling it trains for one round and returns the number of images.

    Attributes:
        counts: results of `Steps.train`, one for each round.
    """

    def __init__(self, trainer: TrainerProcess, steps: int) -> None:
        self.trainer, self.steps = trainer, steps
        self.counts: list[dict[str, Any]] = []

    def __call__(self) -> int:
        self.counts.append(self.trainer("train", count=self.steps))
        return self.counts[-1]["images"]


def measure_rates(
    trainers: Sequence[TrainerProcess],
    steps: int,
    timing: dict[str, Any],
    abouts: dict[str, dict[str, Any]],
    peak: Peak,
    entries: report.Entries,
) -> None:
    """Measure all engines in interleaved rounds, with the plain loops of the first one-rank engine.

    Args:
        abouts: results of `Steps.about` by engine.
    """
    rounds = {trainer.engine: TrainingRounds(trainer, steps) for trainer in trainers}
    cases = [Case(f"ours, {engine}", run) for engine, run in rounds.items()]
    one_rank = next((each for each in trainers if abouts[each.engine]["ranks"] == 1), None)
    if one_rank is not None:
        one_rank("lay_out", blocks=timing["rounds"] + timing["warmup"], count=steps)
        for name, kind in ((BARE, "bare"), (UNMASKED, "unmasked")):
            cases.append(Case(name, lambda kind=kind: one_rank("loop", kind=kind)))
    rates = harness.interleave(cases, **timing)
    budgets = {engine: thread_budget(about) for engine, about in abouts.items()}
    threads = {f"ours, {engine}": budget for engine, budget in budgets.items()}
    if one_rank is not None:
        threads |= dict.fromkeys((BARE, UNMASKED), budgets[one_rank.engine])
    results = [
        report.result(RATES, case.name, "images/s", rates[case.name], threads=threads[case.name])
        for case in cases
    ]
    entries.results += results
    if one_rank is not None:
        ours = f"ours, {one_rank.engine}"
        entries.comparisons += [
            report.compare(results, RATES, ours, BARE, OVERHEAD_TARGET),
            report.compare(results, RATES, BARE, UNMASKED, MASKS_TARGET),
        ]
    else:
        reason = "needs an engine of one rank; add single to --engines"
        entries.missing.append({"group": RATES, "name": BARE, "reason": reason})
    first, *others = (f"ours, {trainer.engine}" for trainer in trainers)
    entries.comparisons += [
        report.compare(results, RATES, name, first, RANKS_TARGET) for name in others
    ]
    for engine, run in rounds.items():
        counts = run.counts[-timing["rounds"] :]
        entries.results += utilisation(
            engine, rates[f"ours, {engine}"], counts, abouts[engine], peak
        )


def utilisation(
    engine: str,
    rates: Sequence[float],
    counts: Sequence[dict[str, Any]],
    about: dict[str, Any],
    peak: Peak,
) -> list[dict[str, Any]]:
    """Return valid pixels per second, and model FLOPs per second relative to the device's peak.

    Args:
        rates: images per second of each round.
        counts: results of `Steps.train` in the same rounds.
    """
    model = ModelConfig(**about["model"])
    sizes = {size for count in counts for size in count["sizes"]}
    flops = {
        (pages, rows, width): model_flops(model, width, about["max_height"], pages, rows)
        for pages, rows, width in sizes
    }
    on_gpu = torch.device(about["device"]).type == "cuda"
    # The peak of a CPU is measured with all its cores, which the ranks share.
    ranks_per_device = 1 if on_gpu else about["ranks"]
    pixels, shares = [], []
    for rate, count in zip(rates, counts, strict=True):
        rank_flops = sum(batches * flops[size] for size, batches in count["sizes"].items())
        device_flops = rank_flops * ranks_per_device
        shares.append(100 * rate / count["images"] * device_flops / peak.flops)
        pixels.append(rate * count["pixels"] / count["images"] / 1e6)
    notes = {"parameters": about["parameters"], "ranks": about["ranks"]}
    return [
        report.result("valid pixels per second", f"ours, {engine}", "Mpx/s", pixels, notes),
        report.result("model FLOP utilisation", f"ours, {engine}", "% of the best", shares),
    ]


def measure_shares(
    trainer: TrainerProcess,
    steps: int,
    timing: dict[str, Any],
    about: dict[str, Any],
    entries: report.Entries,
) -> None:
    """Measure each phase's share of a step; work between steps is spread over the steps."""
    rounds = [trainer("phases", count=steps) for _ in range(timing["rounds"])]
    between = trainer("between_steps")
    group = f"{SHARES}, {trainer.engine}"
    shares: dict[str, list[float]] = {}
    for phases in rounds:
        seconds = phases | {name: phases.get(name, 0) + value for name, value in between.items()}
        total = sum(seconds.values())
        for name, value in seconds.items():
            if value > 0:
                shares.setdefault(PHASES[name], []).append(100 * value / total)
    entries.results += [
        report.result(group, name, "%", values, better="neither") for name, values in shares.items()
    ]
    if about["ranks"] > 1:
        waiting = communication(trainer, steps)
        if any(waiting):
            name = "of it all, waiting for other ranks"
            values = [100 * share for share in waiting]
            entries.results.append(report.result(group, name, "%", values, better="lower"))


def communication(trainer: TrainerProcess, steps: int) -> list[float]:
    """Return the share of each step in which the main process only communicates."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trainer("profile", count=steps, trace=str(path), shapes=False)
        trace = traces.read(path)
    seconds = trace.by_purpose().get(traces.COMMUNICATION, [0.0] * len(trace.steps))
    return [
        waited / (end - start) for waited, (start, end) in zip(seconds, trace.steps, strict=True)
    ]


def measure_memory(trainer: TrainerProcess, steps: int, entries: report.Entries) -> None:
    """Measure the peak bytes of tensors on a rank."""
    peak_mb = trainer("peak_memory", count=steps) / 1e6
    name = f"ours, {trainer.engine}"
    entries.results.append(report.result("memory of a rank", name, "MB", [peak_mb], better="lower"))


if __name__ == "__main__":
    cli.run("benchmarks.throughput", main)
