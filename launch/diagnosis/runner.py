"""Execution of checks with time limits; table and JSON file of their results."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from launch.diagnosis.machine import MACHINE_FILE, Machine
from launch.diagnosis.outcome import FAILED, SKIPPED, Result, Skipped
from launch.diagnosis.registry import Check
from launch.diagnosis.trainings import last_error
from launch.processes import MARK, kill_family, new_mark
from launch.small_run import ROOT

DEFAULT_MINUTES = 10.0
NO_TIME = "no time left"


def check_command(check: Check, folder: Path) -> list[str]:
    """Return the command that runs a check; its process is killed when the parent process ends."""
    start = [sys.executable, "-m", "shards.lifetime", sys.executable]
    return [*start, "-m", "launch.diagnosis.one_check", check.name, str(folder)]


def run_check(
    check: Check,
    machine: Machine,
    folder: Path,
    seconds: float,
    command: Sequence[str] | None = None,
) -> Result:
    """Run a check in a process of its own; kill it with all its children at the time limit.

    Args:
        folder: folder for files of the checks. The process reads the facts about the machine from
            it and writes its result to NAME.json; its output is in check-NAME.log.
        command: command of the process; None: the result of `check_command`.
    """
    log, answer = folder / f"check-{check.name}.log", folder / f"{check.name}.json"
    answer.unlink(missing_ok=True)
    machine.write(folder / MACHINE_FILE)
    mark, start, cpu_start = new_mark(), time.monotonic(), _cpu_seconds()
    with log.open("w") as output:
        process = subprocess.Popen(
            command or check_command(check, folder),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {MARK: mark},
        )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        reason = f"out of time after {seconds:.0f} s; stopped with all its processes"
        return Result(check.name, FAILED, reason, seconds)
    finally:
        kill_family(mark)
        process.wait()
    taken = {"seconds": time.monotonic() - start, "cpu_seconds": _cpu_seconds() - cpu_start}
    if not answer.exists():
        reason = f"ended with status {process.returncode}: {last_error(log)}"
        return Result(check.name, FAILED, reason, **taken)
    return Result(check.name, **taken, **json.loads(answer.read_text()))


def _cpu_seconds() -> float:
    """Return the CPU time of all processes that have ended and were started by this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_checks(
    checks: Iterable[Check],
    machine: Machine,
    folder: Path,
    minutes: float = DEFAULT_MINUTES,
    run: Callable[[Check, Machine, Path, float], Result] = run_check,
) -> Iterator[Result]:
    """Run checks one after the other and yield their results.

    Args:
        minutes: time limit of all checks together. A check for which no time is left is `SKIPPED`
            if `minutes` is less than the default, and `FAILED` otherwise.
    """
    end = time.monotonic() + 60 * minutes
    status = SKIPPED if minutes < DEFAULT_MINUTES else FAILED
    for check in checks:
        try:
            check.plan(machine)
        except Skipped as skipped:
            yield Result(check.name, SKIPPED, str(skipped))
            continue
        left = end - time.monotonic()
        if left <= 0:
            yield Result(check.name, status, NO_TIME)
            continue
        result = run(check, machine, folder, min(check.seconds, left))
        if result.status == FAILED and left < check.seconds and result.seconds >= left:
            reason = f"{NO_TIME}: stopped after {result.seconds:.0f} s"
            result = Result(check.name, status, reason, result.seconds)
        yield result


def exit_status(results: Iterable[Result]) -> int:
    """Return 1 if a check has failed, else 0."""
    return int(any(result.status == FAILED for result in results))


def line(result: Result) -> str:
    """Return a result as a line of the table."""
    return f"{result.check:<22}{result.seconds:>7.1f} s  {result.status}: {result.reason}"


def table(results: Sequence[Result]) -> str:
    """Return lines of text: one per result, the number of results of each status, and the times."""
    counts = Counter(result.status for result in results)
    total = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    seconds, cpu_seconds = (
        sum(getattr(result, name) for result in results) for name in ("seconds", "cpu_seconds")
    )
    times = f"in {seconds:.0f} s (CPU time {cpu_seconds:.0f} s)"
    return "\n".join([*map(line, results), f"{total or 'no checks'} {times}"])


def write_json(results: Sequence[Result], path: Path) -> None:
    """Write a list of objects: `check`, `status`, `reason`, times and measured values."""
    entries = []
    for result in results:
        entry = asdict(result)
        entries.append(entry | entry.pop("figures"))
    path.write_text(json.dumps(entries, indent=1) + "\n")


def plan(checks: Iterable[Check], machine: Machine) -> Iterator[str]:
    """Yield one line for each check: its plan for a machine and its time limit."""
    for check in checks:
        try:
            text = f"{check.plan(machine)} (at most {check.seconds:.0f} s)"
        except Skipped as skipped:
            text = f"skipped: {skipped}"
        yield f"{check.name:<20} {text}"
