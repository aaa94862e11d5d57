"""Time of a training step by purpose of its operations, and the roofline bound of each purpose.

    python -m benchmarks.profile_kernels [--experiment NAME] [--engine single] [key=value ...]
    python -m benchmarks.profile_kernels --compare OLD.pt.trace.json NEW.pt.trace.json

Runs steps of the trainer under torch's profiler after a warm-up. chrome://tracing, Perfetto and
TensorBoard's profiler open the trace; on a GPU a memory snapshot for pytorch.org/memory_viz is
written as well. Writes profile_kernels.json and .png, and the trace beside them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import device_peak, harness, report, traces
from benchmarks.support.device_peak import Peak
from benchmarks.support.traces import OVERHEAD, WAITING, Trace
from benchmarks.support.trainer_process import (
    TrainerProcess,
    add_trainer_arguments,
    trainer_settings,
)
from shards import cli
from vaetrain.engines.engine_files import engine_names

STEPS, QUICK_STEPS = 10, 3
GROUP = "time of a step"
TRACE, SNAPSHOT = "profile_kernels.pt.trace.json", "profile_kernels.memory.pickle"
TABLE_LENGTH = 12  # operations


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("profile_kernels", __doc__)
    add_trainer_arguments(parser)
    parser.add_argument("--engine", choices=engine_names(), default="single", help="default single")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="print the differences between two traces",
    )
    arguments = parser.parse_intermixed_args()
    if arguments.compare:
        old, new = map(traces.read, arguments.compare)
        sys.stdout.write(comparison(old, new))
        return 0
    record, trace = measure(arguments)
    report.publish(record, arguments.out)
    print(arguments.out / TRACE)
    sys.stdout.write(operations(trace))
    return 0


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], Trace]:
    """Profile the main process, and return the record and its trace."""
    steps = QUICK_STEPS if arguments.quick else STEPS
    settings = trainer_settings(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = (arguments.out / TRACE).resolve()
    with TrainerProcess(arguments.engine, arguments.experiment, settings) as trainer:
        about = trainer("about")
        peak = device_peak.measure(
            arguments.device, about["precision"], quick=arguments.quick, seed=arguments.seed
        )
        trainer("train", count=2)
        trainer("profile", count=steps, trace=str(path), shapes=True)
        if about["device"].startswith("cuda"):
            trainer("snapshot", file=str(arguments.out.resolve() / SNAPSHOT))
    trace = traces.read(path)
    record = report.record(
        "profile_kernels",
        quick=arguments.quick,
        settings={
            "seed": arguments.seed,
            "rounds": steps,
            "warmup": 3,
            "device": about["device"],
            "experiment": arguments.experiment,
            "settings": settings,
            "engine": about,
        },
        packages=("accelerate",),
        results=[*results_by_purpose(trace, peak), *peak.results],
    )
    return record, trace


def results_by_purpose(trace: Trace, peak: Peak) -> list[dict[str, Any]]:
    """Return a record's results: milliseconds of each purpose, its share and its bound."""
    by_purpose, totals = trace.by_purpose(), trace.totals()
    total = sum(map(sum, by_purpose.values()))
    entries = []
    for purpose, seconds in by_purpose.items():
        if not all(value > 0 for value in seconds):
            continue  # not in every step, so its quartiles mean nothing
        notes: dict[str, Any] = {"% of a step": round(100 * sum(seconds) / total, 2)}
        if purpose not in (OVERHEAD, WAITING):
            notes |= work_notes(sum(seconds), *totals[purpose], len(trace.steps), peak)
        milliseconds = [1e3 * value for value in seconds]
        entries.append(report.result(GROUP, purpose, "ms", milliseconds, notes, better="lower"))
    return entries


def work_notes(
    seconds: float, count: int, flops: int, moved: int, steps: int, peak: Peak
) -> dict[str, Any]:
    """Return the number of operations a step, their rates, and their roofline bound.

    Args:
        seconds, count, flops, moved: of the operations in all steps.
    """
    notes: dict[str, Any] = {"operations": round(count / steps)}
    if flops:
        notes["GFLOP/s"] = round(flops / seconds / 1e9, 1)
    if moved:
        notes["GB/s"] = round(moved / seconds / 1e9, 1)
    if flops and moved:
        notes["FLOP a byte"] = round(flops / moved, 2)
    bound = traces.roofline_bound(seconds, flops, moved, peak.flops, peak.bandwidth)
    return notes | {"bound": bound}


def operations(trace: Trace) -> str:
    """Return a table of the operations that take longest."""
    longest = sorted(trace.by_operation().items(), key=lambda item: -item[1])[:TABLE_LENGTH]
    lines = [f"  {name:<60}{1e3 * seconds:>10.3f}" for name, seconds in longest]
    return "\n".join(["", f"{'operations that take longest':<62}{'ms a step':>10}", *lines, ""])


def comparison(old: Trace, new: Trace) -> str:
    """Return a table of the time by purpose and of the operations that changed most."""
    before, after = (
        {purpose: float(np.median(seconds)) for purpose, seconds in trace.by_purpose().items()}
        for trace in (old, new)
    )
    lines = _changes("purpose", before, after, len(before | after))
    lines += ["", *_changes("operation", old.by_operation(), new.by_operation(), TABLE_LENGTH)]
    step = [float(np.median([end - start for start, end in trace.steps])) for trace in (old, new)]
    lines += ["", *_changes("", {"a step": step[0]}, {"a step": step[1]}, 1)]
    return "\n".join(lines) + "\n"


def _changes(
    title: str, before: dict[str, float], after: dict[str, float], length: int
) -> list[str]:
    lines = [f"{title:<62}{'before, ms':>12}{'after, ms':>12}{'change':>12}"]
    names = dict.fromkeys([*before, *after])
    changed = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in names}
    for name in sorted(names, key=lambda name: -abs(changed[name]))[:length]:
        values = "".join(f"{1e3 * side.get(name, 0.0):>12.3f}" for side in (before, after))
        lines.append(f"{name:<62}{values}{1e3 * changed[name]:>+12.3f}")
    return lines


if __name__ == "__main__":
    cli.run("benchmarks.profile_kernels", main)
