"""Execution of checks with time limits; table and JSON file of their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from launch.diagnosis.machine import Machine
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
    check: Check, folder: Path, seconds: float, command: Sequence[str] | None = None
) -> Result:
    """Run a check in a process of its own; kill it with all its children at the time limit.

    Args:
        folder: folder for files of the checks. The process writes its result to NAME.json; its
            output is in check-NAME.log.
        command: command of the process; None: the result of `check_command`.
    """
    log, answer = folder / f"check-{check.name}.log", folder / f"{check.name}.json"
    answer.unlink(missing_ok=True)
    mark, start = new_mark(), time.monotonic()
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
    taken = time.monotonic() - start
    if not answer.exists():
        reason = f"ended with status {process.returncode}: {last_error(log)}"
        return Result(check.name, FAILED, reason, taken)
    return Result(check.name, seconds=taken, **json.loads(answer.read_text()))


def run_checks(
    checks: Iterable[Check],
    machine: Machine,
    folder: Path,
    minutes: float = DEFAULT_MINUTES,
    run: Callable[[Check, Path, float], Result] = run_check,
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
        result = run(check, folder, min(check.seconds, left))
        if result.status == FAILED and left < check.seconds and result.seconds >= left:
            reason = f"{NO_TIME}: stopped after {result.seconds:.0f} s"
            result = Result(check.name, status, reason, result.seconds)
        yield result


def exit_status(results: Iterable[Result]) -> int:
    """Return 1 if a check has failed, else 0."""
    return int(any(result.status == FAILED for result in results))


def line(result: Result) -> str:
    """Return a result as a line of the table."""
    return f"{result.check:<16}{result.seconds:>7.1f} s  {result.status}: {result.reason}"


def table(results: Sequence[Result]) -> str:
    """Return lines of text: one per result, and the number of results of each status."""
    counts = Counter(result.status for result in results)
    total = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    return "\n".join([*map(line, results), f"{total or 'no checks'}"])


def write_json(results: Sequence[Result], path: Path) -> None:
    """Write a list of objects: `check`, `status`, `reason`, `seconds` and measured values."""
    entries = []
    for result in results:
        entry = asdict(result)
        entries.append(entry | entry.pop("figures"))
    path.write_text(json.dumps(entries, indent=1) + "\n")


def plan(checks: Iterable[Check], machine: Machine) -> Iterator[str]:
    """Yield one line for each check: its time limit and its plan for a machine."""
    for check in checks:
        try:
            text = check.plan(machine)
        except Skipped as skipped:
            text = f"skipped: {skipped}"
        yield f"{check.name:<16} at most {check.seconds:>3.0f} s  {text}"
