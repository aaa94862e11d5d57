"""Timing of benchmarks: interleaved rounds in random order, and pinning to one core."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks.support import harness
from benchmarks.support.harness import Case, interleave

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Replace the clock by one that only the test advances."""
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    return now


def case(name: str, seconds: float, units: int, clock: list[float], log: list[str]) -> Case:
    def run() -> int:
        log.append(name)
        clock[0] += seconds
        return units

    return Case(name, run)


def test_rates_are_units_per_second_without_warmup_rounds(clock):
    cases = [case("slow", 2.0, 10, clock, []), case("fast", 0.5, 10, clock, [])]
    rates = interleave(cases, rounds=4, warmup=2, device=CPU, seed=0)
    assert rates == {"slow": [5.0] * 4, "fast": [20.0] * 4}


def test_every_round_runs_every_case_in_a_new_order(clock):
    log: list[str] = []
    cases = [case(name, 1.0, 1, clock, log) for name in "abcd"]
    interleave(cases, rounds=20, warmup=0, device=CPU, seed=0)
    rounds = [tuple(log[at : at + 4]) for at in range(0, 80, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 5


def test_order_depends_on_the_seed_only(clock):
    logs = []
    for seed in (1, 1, 2):
        log: list[str] = []
        cases = [case(name, 1.0, 1, clock, log) for name in "abcd"]
        interleave(cases, rounds=5, warmup=0, device=CPU, seed=seed)
        logs.append(log)
    assert logs[0] == logs[1] != logs[2]


def test_pinning_includes_threads_that_run_already():
    program = """
import os, threading, torch
torch.ones(1 << 20).add_(1)  # starts torch's threads
stop = threading.Event()
threading.Thread(target=stop.wait).start()
from benchmarks.support.harness import pin_to_one_core
core = pin_to_one_core()
tasks = [int(task) for task in os.listdir("/proc/self/task")]
assert len(tasks) > 1
assert all(os.sched_getaffinity(task) == {core} for task in tasks)
assert torch.get_num_threads() == 1
stop.set()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
