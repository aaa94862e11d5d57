"""Commands run in processes of their own, as a user runs them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from tests.support.paths import REPO

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
MAX_CPU_SECONDS = 1.5  # of a command that does not import torch; the import takes longer


def launcher(engine: str | Path, processes: int | None = None) -> list[str]:
    """Return the command that launches a script under an engine, given by name or engine file."""
    config = engine if isinstance(engine, Path) else f"accelerate_configs/{engine}.yaml"
    many = [] if processes is None else ["--num_processes", str(processes)]
    return [ACCELERATE, "launch", "--config_file", str(config), *many]


def run_command(*command: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, whose packages it can import; capture its output."""
    return subprocess.run(
        list(map(str, command)),
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_python(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the test's Python in the repository with these arguments; capture its output."""
    return run_command(sys.executable, *arguments, timeout=timeout)


def run_module(
    module: str, *arguments: object, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a module as a command, see `run_python`."""
    return run_python("-m", module, *arguments, timeout=timeout)


def cpu_seconds_of(*command: object) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run a command that must succeed; return its CPU time and the completed process.

    Unlike its duration, CPU time hardly depends on the other programs of the machine.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_command(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done


def run_launched(
    engine: str, *arguments: object, processes: int | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a script or module under an engine; assert that it succeeds."""
    done = run_command(*launcher(engine, processes), *arguments, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
