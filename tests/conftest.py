"""For all tests: how long hypothesis looks for what breaks a parser, and tables of what was found.

`--hypothesis-profile=long` goes on looking.
"""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Derandomised: a test suite that fails on some days only helps nobody.
settings.register_profile(
    "default",
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", max_examples=200_000, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("default")


def pytest_configure(config: Any) -> None:
    """Keep processes that run tests at the same time, and what they start, on cores of their own.

    A training of one process takes a thread for every core it may use; beside another's work such
    threads wait for one another so busily that half a minute became three.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores, count = sorted(os.sched_getaffinity(0)), worker["workercount"]
        own = cores[int(worker["workerid"].removeprefix("gw")) :: count]
        os.sched_setaffinity(0, own or cores)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no GPU."""
    need_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not need_gpu:
        return
    import torch  # here, because tests without it start seconds earlier

    if not torch.cuda.is_available():
        for item in need_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


class FullDisk:
    """A folder where nothing more can be written once it is filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Write until the disk refuses."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Full in between."""
        self.fill()
        try:
            yield
        finally:
            self.free()


class Limit(FullDisk):
    """The same for this process alone, where mounting is not allowed: no file may grow."""

    def fill(self) -> None:
        """Have every file be full."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))

    def free(self) -> None:
        """Make room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[FullDisk]:
    """A file system of its own in a new folder; skips where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield FullDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(params=["disk", "limit"])
def full_disk(request, tmp_path) -> Iterator[FullDisk]:
    """Where this process can run out of room."""
    if request.param == "disk":
        with small_disk(tmp_path / "disk", "2m") as disk:
            yield disk
        return
    yield Limit(tmp_path)


TABLES: dict[str, list[str]] = {}  # what tests measured, by title


@pytest.fixture(scope="session")
def tables() -> dict[str, list[str]]:
    """Tables in Markdown that are printed after the tests, rows by title."""
    return TABLES


def pytest_sessionfinish(session: Any) -> None:
    """Hand the tables of a process that ran tests to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tables"] = TABLES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the tables of a process that ran tests; one that crashed has none."""
    for title, rows in getattr(node, "workeroutput", {}).get("tables", {}).items():
        TABLES.setdefault(title, []).extend(rows)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured, ready for the documentation."""
    for title, rows in TABLES.items():
        terminalreporter.section(title)
        for row in rows:
            terminalreporter.write_line(row)
