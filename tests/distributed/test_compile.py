"""Compiled blocks in real processes, under the engines that can run them.

The backend `aot_eager` traces forward and backward pass as `inductor` does, but generates no code,
which takes minutes on a CPU.
"""

import json
import os
import subprocess

import pytest

from tests.support.commands import launcher
from tests.support.paths import REPO

BLOCKS, HEIGHTS = 7, 5  # of `tiny`, and of the worker
RUNS = [
    ("single", ()),
    ("ddp", ()),
    ("ddp", ("train.precision=bf16",)),
    ("fsdp2", ()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "settings"), RUNS)
def test_compiled_blocks_give_the_losses_of_eager_ones(engine, settings):
    """No graph breaks, and as many graphs as blocks, whatever the number of heights."""
    config = REPO / "accelerate_configs" / f"{engine}.yaml"
    command = [*launcher(config), "tests/distributed/programs/compile_worker.py", *settings]
    own = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=REPO, env=own, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("found "))
    found = json.loads(line.removeprefix("found "))
    exact = not settings or "bf16" not in settings[0]
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-5 if exact else 1e-3)
    assert found["weights"] < (1e-5 if exact else 1e-3)
    assert found["breaks"] == {}
    assert BLOCKS <= found["graphs"] <= 2 * BLOCKS
