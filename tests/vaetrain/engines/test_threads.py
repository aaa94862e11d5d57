"""Number of CPU threads of real processes, with taskset and OMP_NUM_THREADS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO

COUNT = """
import os, torch
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
start_engine(running_launch(os.environ))
print(torch.get_num_threads())
"""
CORE = str(min(os.sched_getaffinity(0)))


def threads_of(*command: str, threads: str | None, cores: str) -> str:
    """Run a command on some cores with a value of OMP_NUM_THREADS; return its whole output."""
    environment = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if threads is None else {"OMP_NUM_THREADS": threads}
    done = subprocess.run(
        ["taskset", "-c", cores, sys.executable, *command],
        cwd=REPO, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize(("threads", "expected"), [(None, 1), ("3", 3), ("2,1", 2)])
def test_a_single_process_has_the_users_threads_or_those_of_its_cores(threads, expected):
    assert threads_of("-c", COUNT, threads=threads, cores=CORE) == f"{expected}\n"


def test_one_thread_on_several_cores_is_respected():
    cores = ",".join(map(str, os.sched_getaffinity(0)))
    assert threads_of("-c", COUNT, threads="1", cores=cores) == "1\n"


def test_commands_say_how_many_threads_they_use(small_run: Path, tmp_path):
    out = str(tmp_path / "sheet.png")
    command = ["-m", "vaetrain.sample", str(small_run / "run"), "--out", out, "--count", "1"]
    printed = threads_of(*command, threads="2", cores=CORE)
    assert "threads: 2; as set by OMP_NUM_THREADS or the launcher\n" in printed
    printed = threads_of(*command, threads=None, cores=CORE)
    assert re.search(r"^threads: 1; 1 core of this machine may be used$", printed, re.MULTILINE)


def test_the_trainer_says_how_many_threads_it_uses(shards, tmp_path):
    settings = ["data.width=64", "data.max_height=128", "data.val_templates=[]", "tracker.use=none"]
    settings += ["model.latent_dim=16", "model.start=random", "train.global_batch_size=8"]
    command = ["vaetrain/train.py", "--run-dir", str(tmp_path / "run"), f"data.shards={shards}"]
    printed = threads_of(*command, *settings, "train.max_images=8", threads="2", cores=CORE)
    first, second, *_ = [line for line in printed.splitlines() if line]
    assert first.startswith("engine=single")
    assert second == "threads: 2; as set by OMP_NUM_THREADS or the launcher"
