"""Machines with a full `/dev/shm`, a read-only home, no TMPDIR, few descriptors, killed readers.

A run works there, or ends within seconds with one line that says what to do.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from launch.processes import family
from shards.build import build
from shards.building.options import BuildOptions
from tests.distributed.conftest import Trainer
from tests.support.models import write_run
from tests.support.paths import SAMPLE
from vaetrain.config.experiment import load_experiment

NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
FULL_SHM = "mount -t tmpfs -o size=4k tmpfs /dev/shm; head -c 4096 /dev/zero > /dev/shm/full; "
READ_ONLY_SHM = "mount -t tmpfs -o size=4k,ro tmpfs /dev/shm; "
SECONDS = 60  # of a start on a busy machine; most of them import torch
SHORT = ("train.max_images=16", "data.workers=1", "train.timeout_seconds=30")


def prepared(setup: str, command: list[str]) -> list[str]:
    """Return a command that runs after `setup` in a mount namespace of its own."""
    return [*NAMESPACE, f"{setup}exec {shlex.join(map(str, command))}"]


@pytest.fixture(scope="module")
def namespace():
    """Skip tests that need mounts where a user may not mount in a namespace of his own."""
    command = [*NAMESPACE, FULL_SHM]
    if shutil.which("unshare") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting in a namespace of its own is not allowed here")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Shards of pictures, whose batches are 512 KB."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(16):
        rng = np.random.default_rng(number)
        page = np.zeros((512, 128), np.uint8)
        for _ in range(20):
            x, y, width, height = rng.integers((0, 0, 9, 9), (100, 480, 60, 90))
            page[y : y + height, x : x + width] += 6
        Image.fromarray(page).save(folder / f"{number}.png")
    build([folder], folder / "shards", BuildOptions(workers=1))
    return folder / "shards"


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one error line of a command that failed."""
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_training_works_with_full_shm_read_only_home_and_no_tmpdir(namespace, pictures, tmp_path):
    (tmp_path / "home").mkdir()
    trainer = Trainer(pictures, tmp_path)
    size = ("data.width=128", "data.max_height=512", "tracker=tensorboard")
    command = trainer.command("run", *size, *SHORT, engine=None)
    mounts = FULL_SHM + f"mount -t tmpfs -o ro tmpfs {tmp_path / 'home'}; "
    home = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "absent")}
    done = trainer.run(prepared(mounts, command), **home)
    assert done.returncode == 0, done.stderr
    assert "finished after 16 images" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_ranks_work_with_a_read_only_shm(namespace, trainer, engine):
    command = trainer.command(f"read-only-shm-{engine}", *SHORT, engine=engine)
    done = trainer.run(prepared(READ_ONLY_SHM, command))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_work_with_full_shm(namespace, tmp_path):
    settings = ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=2"]
    write_run(tmp_path, load_experiment(None, settings), pages=32, noise=0.02)
    trainer = Trainer(tmp_path / "shards", tmp_path)
    for name, *more in (["embed", "--out", tmp_path / "x.npz"], ["evaluate"]):
        start = [sys.executable, "-m", f"vaetrain.{name}", tmp_path / "run"]
        done = trainer.run(prepared(FULL_SHM, [*start, "--shards", tmp_path / "shards", *more]))
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_build_names_shm_and_the_way_without(namespace, tmp_path):
    command = [sys.executable, "-m", "shards.build", SAMPLE, "--out", tmp_path / "out"]
    trainer = Trainer(tmp_path, tmp_path)
    done = trainer.run(prepared(FULL_SHM, [*command, "--workers", 2]))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert "/dev/shm" in line
    assert line.endswith("or use --workers 1")


@pytest.mark.slow
def test_a_path_too_long_for_sockets_names_tmpdir(trainer, tmp_path):
    folder = tmp_path / ("x" * 110)
    folder.mkdir()
    begun = time.monotonic()
    done = trainer.run(trainer.command("long", *SHORT, engine=None), TMPDIR=str(folder))
    assert "set TMPDIR to a writable folder" in error_of(done)
    assert time.monotonic() - begun < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [12, 20, 24])
def test_few_descriptors_suffice_or_the_limit_is_named(trainer, descriptors):
    command = trainer.command(f"descriptors-{descriptors}", *SHORT, engine=None)
    limited = f"ulimit -n {descriptors}; exec {shlex.join(command)}"
    begun = time.monotonic()
    done = trainer.run(["sh", "-c", limited])
    if descriptors < 24:
        assert "ulimit -n" in error_of(done)
        assert time.monotonic() - begun < SECONDS
    else:
        assert done.returncode == 0, done.stderr


def test_a_reader_that_dies_ends_a_run_of_one_process_with_the_remedy(trainer):
    """SIGBUS is what writing to a full shared memory gives."""
    many = ("train.max_images=100000", "data.workers=2")
    process = trainer.start(trainer.command("sigbus", *many, engine=None))
    trainer.wait_for("sigbus", process)
    parents = family(process.mark)
    readers = [child for child, parent in parents.items() if parents.get(parent) == process.pid]
    assert len(readers) == 2
    begun = time.monotonic()
    os.kill(readers[0], signal.SIGBUS)
    _, err = process.communicate(timeout=SECONDS)
    assert time.monotonic() - begun < 20
    done = subprocess.CompletedProcess([], process.returncode, "", err)
    error = error_of(done)
    assert error.startswith("error: rank 0: a reader process died of SIGBUS")
    assert "/dev/shm" in error
    assert error.endswith("or set data.workers=0")
    assert not family(process.mark)
