"""Where a training step's time goes, by what operations are for, and what bounds each.

    python -m benchmarks.profile_kernels [--experiment NAME] [--engine single] [key=value ...]
    python -m benchmarks.profile_kernels --compare OLD.pt.trace.json NEW.pt.trace.json

Steady steps of the trainer under torch's profiler, whose trace chrome://tracing, Perfetto and
TensorBoard's profiler read; on a GPU also a snapshot of its memory, for pytorch.org/memory_viz.
Writes profile_kernels.json and .png, and the trace beside them.
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
MOST_TOLD = 12  # operations of a table


def main() -> int:
    """Run the command; the exit status."""
    parser = harness.parser("profile_kernels", __doc__)
    add_trainer_arguments(parser)
    parser.add_argument("--engine", choices=engine_names(), default="single", help="default single")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="traces to set side by side"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.compare:
        old, new = map(traces.read, arguments.compare)
        sys.stdout.write(comparison(old, new))
        return 0
    told, trace = measure(arguments)
    report.publish(told, arguments.out)
    print(arguments.out / TRACE)
    sys.stdout.write(operations(trace))
    return 0


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], Trace]:
    """Profile the main process; the record, and the trace it is of."""
    steps = QUICK_STEPS if arguments.quick else STEPS
    settings = trainer_settings(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    place = (arguments.out / TRACE).resolve()
    with TrainerProcess(arguments.engine, arguments.experiment, settings) as worker:
        about = worker("about")
        best = device_peak.measure(
            arguments.device, about["precision"], quick=arguments.quick, seed=arguments.seed
        )
        worker("train", count=2)
        worker("profile", count=steps, trace=str(place), shapes=True)
        if about["device"].startswith("cuda"):
            worker("snapshot", file=str(arguments.out.resolve() / SNAPSHOT))
    trace = traces.read(place)
    told = {"seed": arguments.seed, "rounds": steps, "warmup": 3, "device": about["device"]}
    told |= {"experiment": arguments.experiment, "settings": settings, "engine": about}
    record = report.record(
        "profile_kernels",
        quick=arguments.quick,
        settings=told,
        packages=("accelerate",),
        results=[*table(trace, best), *best.results],
    )
    return record, trace


def table(trace: Trace, best: Peak) -> list[dict[str, Any]]:
    """Milliseconds of every step by purpose, with shares and what bounds them."""
    by_purpose, totals = trace.by_purpose(), trace.totals()
    whole = sum(map(sum, by_purpose.values()))
    entries = []
    for purpose, seconds in by_purpose.items():
        if not all(value > 0 for value in seconds):
            continue  # it comes now and then, and has no spread
        notes: dict[str, Any] = {"% of a step": round(100 * sum(seconds) / whole, 2)}
        if purpose not in (OVERHEAD, WAITING):
            notes |= work(sum(seconds), *totals[purpose], len(trace.steps), best)
        milliseconds = [1e3 * value for value in seconds]
        entries.append(report.result(GROUP, purpose, "ms", milliseconds, notes, better="lower"))
    return entries


def work(
    seconds: float, count: int, flops: int, moved: int, steps: int, best: Peak
) -> dict[str, Any]:
    """What some operations did in so many seconds, and what bounds them."""
    notes: dict[str, Any] = {"operations": round(count / steps)}
    if flops:
        notes["GFLOP/s"] = round(flops / seconds / 1e9, 1)
    if moved:
        notes["GB/s"] = round(moved / seconds / 1e9, 1)
    if flops and moved:
        notes["FLOP a byte"] = round(flops / moved, 2)
    bound = traces.bound(seconds, flops, moved, best.flops, best.bandwidth)
    return notes | {"bound": bound}


def operations(trace: Trace) -> str:
    """The operations that take longest, as a table."""
    dearest = sorted(trace.by_operation().items(), key=lambda item: -item[1])[:MOST_TOLD]
    lines = [f"  {name:<60}{1e3 * seconds:>10.3f}" for name, seconds in dearest]
    return "\n".join(["", f"{'operations that take longest':<62}{'ms a step':>10}", *lines, ""])


def comparison(old: Trace, new: Trace) -> str:
    """Two traces by purpose, and the operations whose time changed most, as a table."""
    before, after = (
        {purpose: float(np.median(seconds)) for purpose, seconds in trace.by_purpose().items()}
        for trace in (old, new)
    )
    lines = _changes("purpose", before, after, len(before | after))
    lines += ["", *_changes("operation", old.by_operation(), new.by_operation(), MOST_TOLD)]
    whole = [float(np.median([end - start for start, end in trace.steps])) for trace in (old, new)]
    lines += ["", *_changes("", {"a step": whole[0]}, {"a step": whole[1]}, 1)]
    return "\n".join(lines) + "\n"


def _changes(what: str, before: dict[str, float], after: dict[str, float], most: int) -> list[str]:
    lines = [f"{what:<62}{'before, ms':>12}{'after, ms':>12}{'change':>12}"]
    names = dict.fromkeys([*before, *after])
    changed = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in names}
    for name in sorted(names, key=lambda name: -abs(changed[name]))[:most]:
        values = (before.get(name, 0.0), after.get(name, 0.0), changed[name])
        told = "".join(f"{1e3 * value:>12.3f}" for value in values[:2])
        lines.append(f"{name:<62}{told}{1e3 * values[2]:>+12.3f}")
    return lines


if __name__ == "__main__":
    cli.run("benchmarks.profile_kernels", main)
