"""Gradients of every architecture do not depend on ranks and micro batches."""

import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.conftest import ACCELERATE
from tests.support.models import ARCHITECTURES, architecture_name
from tests.support.paths import REPO

WORKER = "tests/distributed/architecture_worker.py"


def measure(folder, engine: str, micro_batch: int) -> dict[str, torch.Tensor]:
    out = folder / f"{engine}-{micro_batch}.safetensors"
    launcher = [ACCELERATE, "launch", "--config_file", f"accelerate_configs/{engine}.yaml"]
    done = subprocess.run(
        [*launcher, WORKER, str(out), str(micro_batch)],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(out)


@pytest.fixture(scope="module")
def one_batch(tmp_path_factory) -> dict[str, torch.Tensor]:
    return measure(tmp_path_factory.mktemp("one_batch"), "single", 8)


@pytest.mark.parametrize(
    ("engine", "micro_batch"),
    [
        ("ddp", 2),
        pytest.param("ddp", 4, marks=pytest.mark.slow),
        pytest.param("single", 2, marks=pytest.mark.slow),
    ],
)
def test_gradients_equal_those_of_one_batch_on_one_rank(one_batch, tmp_path, engine, micro_batch):
    gradients = measure(tmp_path, engine, micro_batch)
    assert gradients.keys() == one_batch.keys()
    for architecture in map(architecture_name, ARCHITECTURES):
        names = [name for name in one_batch if name.startswith(f"{architecture}/")]
        assert len(names) > 20
        largest = max(float(one_batch[name].abs().max()) for name in names)
        for name in names:
            torch.testing.assert_close(
                gradients[name], one_batch[name], rtol=1e-4, atol=5e-6 * largest, msg=name
            )
