"""Command-line flags and timing common to all benchmarks: warm-up, interleaved rounds, pinning.

benchmarks/README.md describes the method.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shards import cli
from vaetrain.engines.devices import cpu_threads


@dataclass(frozen=True)
class Case:
    """One of the cases that are compared.

    Attributes:
        name: unique within its group.
        run: does the work of one round and returns the number of units done, such as images.
    """

    name: str
    run: Callable[[], int]


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return an argument parser with the flags common to all benchmarks.

    It also sets the number of threads as the trainer does: that of OMP_NUM_THREADS, else that of
    the cores that affinity and cgroup allow.
    """
    torch.set_num_threads(cpu_threads(os.environ))
    parser = cli.Parser(
        prog=f"benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few pages and rounds, to check that it works")
    add("--out", type=Path, default=Path("runs/benchmarks"), metavar="DIR", help="output folder")
    add(
        "--device",
        type=torch.device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="default: cuda if available, else cpu",
    )
    add("--seed", type=int, default=0, help="of every random draw; default 0")
    return parser


def pin_to_one_core() -> int:
    """Pin this process and its future children to one core, and return the core's number."""
    core = min(os.sched_getaffinity(0))
    # Threads that run already, such as OpenMP's, keep their own affinity.
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), {core})
    torch.set_num_threads(1)
    return core


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    cases: Sequence[Case], *, rounds: int, warmup: int, device: torch.device, seed: int
) -> dict[str, list[float]]:
    """Measure the units per second of every case in every round.

    A round runs each case once, in a new random order, so that a temporary slowdown of the machine
    affects all cases and no case always follows the same other one. The device is synchronised
    inside the timed region.

    Args:
        warmup: rounds that are run first and not counted.

    Returns: `rounds` rates for every case, by name, in the order of the rounds.
    """
    generator = random.Random(seed)
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    progress = cli.progress(total=(warmup + rounds) * len(cases), unit="run")
    for number in range(warmup + rounds):
        for case in generator.sample(list(cases), len(cases)):
            synchronize(device)
            start = time.perf_counter()
            units = case.run()
            synchronize(device)
            seconds = time.perf_counter() - start
            if number >= warmup:
                rates[case.name].append(units / seconds)
            progress.update()
    progress.close()
    return rates
