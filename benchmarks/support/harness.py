"""How every benchmark here measures: pinned, warmed up, in interleaved rounds.

README.md beside this file is the contract.
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


@dataclass(frozen=True)
class Case:
    """One of the things compared.

    name: unique within its group.
    run: does one round's work and returns how many units it did, such as images.
    """

    name: str
    run: Callable[[], int]


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every benchmark has."""
    made = cli.Parser(
        prog=f"benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="few pages and rounds: does it work?")
    made.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks"), metavar="DIR", help="folder to write"
    )
    made.add_argument(
        "--device",
        type=torch.device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="cuda if there is one",
    )
    made.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    return made


def pin_to_one_core() -> int:
    """Keep this process, and what it starts from now on, on one core; returns its number."""
    core = min(os.sched_getaffinity(0))
    # Threads that run already, such as OpenMP's, must be moved one by one.
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), {core})
    torch.set_num_threads(1)
    return core


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    cases: Sequence[Case], *, rounds: int, warmup: int, device: torch.device, seed: int
) -> dict[str, list[float]]:
    """Units per second of every case in every round.

    A round runs each case once, in an order drawn anew, so that a slow minute of the machine meets
    all of them and none always follows the same other. The device is waited for inside the timed
    region.

    Args:
        warmup: rounds before those that count.

    Returns: `rounds` rates for every case, by name, in the order of the rounds.
    """
    draw = random.Random(seed)
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    total = cli.progress(total=(warmup + rounds) * len(cases), unit="run")
    for number in range(warmup + rounds):
        for case in draw.sample(list(cases), len(cases)):
            synchronize(device)
            start = time.perf_counter()
            units = case.run()
            synchronize(device)
            seconds = time.perf_counter() - start
            if number >= warmup:
                rates[case.name].append(units / seconds)
            total.update()
    total.close()
    return rates
