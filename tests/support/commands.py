"""Commands run in processes of their own, as a user runs them."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import REPO


def run_python(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the test's Python in the repository with these arguments; capture its output."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=timeout)


def run_module(
    module: str, *arguments: object, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a module as a command, see `run_python`."""
    return run_python("-m", module, *arguments, timeout=timeout)
