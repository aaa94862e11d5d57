"""Every architecture has one gradient, however a global batch is cut over ranks and turns."""

import itertools
import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.architecture_worker import CHOICES
from tests.distributed.conftest import ACCELERATE, REPO

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
def whole(tmp_path_factory) -> dict[str, torch.Tensor]:
    return measure(tmp_path_factory.mktemp("whole"), "single", 8)


@pytest.mark.parametrize(
    ("engine", "micro_batch"),
    [
        ("ddp", 2),
        pytest.param("ddp", 4, marks=pytest.mark.slow),
        pytest.param("single", 2, marks=pytest.mark.slow),
    ],
)
def test_one_gradient(whole, tmp_path, engine, micro_batch):
    cut = measure(tmp_path, engine, micro_batch)
    assert cut.keys() == whole.keys()
    for architecture in map("-".join, itertools.product(*CHOICES.values())):
        names = [name for name in whole if name.startswith(f"{architecture}/")]
        assert len(names) > 20
        largest = max(float(whole[name].abs().max()) for name in names)
        for name in names:
            torch.testing.assert_close(
                cut[name], whole[name], rtol=1e-4, atol=5e-6 * largest, msg=name
            )
