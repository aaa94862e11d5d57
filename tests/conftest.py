"""Fixtures of all tests: hypothesis profiles, full disks, and tables of measured values.

`--hypothesis-profile=long` draws more examples.
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

# Derandomised, so that the suite gives the same result every day.
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
    """Pin parallel test processes, and the processes they start, to separate cores.

    A training of one process starts a thread for each core it may use. When two share cores, their
    threads busy-wait for each other: half a minute became three.
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
    """A folder on a disk that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Write until the disk is full."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))

    def free(self) -> None:
        """Free the space again."""
        self._ballast.unlink(missing_ok=True)

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Fill the disk within the context."""
        self.fill()
        try:
            yield
        finally:
            self.free()


class Limit(FullDisk):
    """A size limit on the files of this process, for use without the right to mount."""

    def fill(self) -> None:
        """Set the limit: no file can grow."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))

    def free(self) -> None:
        """Free the space again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[FullDisk]:
    """Mount a small file system in a new folder; skip the test if mounting is not allowed."""
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
    """Give a folder that can be filled, once as a small disk and once as a size limit."""
    if request.param == "disk":
        with small_disk(tmp_path / "disk", "2m") as disk:
            yield disk
        return
    yield Limit(tmp_path)


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """Return shards of sixty sample pages, several so that windows matter. Not to be changed."""
    from shards.build import build
    from shards.building.options import BuildOptions
    from tests.support.paths import SAMPLE

    folder = tmp_path_factory.mktemp("sample") / "shards"
    build([SAMPLE], folder, BuildOptions(count=60, shard_mb=0.05, workers=1))
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """Return a folder with `shards` and `run`, a small random model. Not to be changed.

    The shards have 32 pages; those for validation share a template.
    """
    from tests.support.models import write_run
    from vaetrain.config.experiment import load_experiment

    folder = tmp_path_factory.mktemp("small")
    settings = ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]
    write_run(folder, load_experiment(None, settings), pages=32, noise=0.02)
    return folder


TABLES: dict[str, list[str]] = {}  # measured values by title


@pytest.fixture(scope="session")
def tables() -> dict[str, list[str]]:
    """Return the Markdown tables that are printed after the tests, rows by title."""
    return TABLES


def pytest_sessionfinish(session: Any) -> None:
    """Send the tables of a test process to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tables"] = TABLES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Receive the tables of a test process; a crashed one has none."""
    for title, rows in getattr(node, "workeroutput", {}).get("tables", {}).items():
        TABLES.setdefault(title, []).extend(rows)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the tables, ready for the documentation."""
    for title, rows in TABLES.items():
        terminalreporter.section(title)
        for row in rows:
            terminalreporter.write_line(row)
