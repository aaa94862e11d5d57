"""Gradients of every architecture do not depend on ranks and micro batches."""

import pytest
import torch
from safetensors.torch import load_file

from tests.support.commands import run_launched
from tests.support.models import ARCHITECTURES, architecture_name

WORKER = "tests/distributed/programs/architecture_worker.py"


def measure(folder, engine: str, micro_batch: int) -> dict[str, torch.Tensor]:
    out = folder / f"{engine}-{micro_batch}.safetensors"
    run_launched(engine, WORKER, out, micro_batch)
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
