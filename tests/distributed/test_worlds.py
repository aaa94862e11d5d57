"""Worlds that do not come out even: never a hang, and the same numbers on any number of ranks."""

import subprocess
import sys

import pytest

from tests.distributed.conftest import REPO

# One shard of four pages to train on, and one to validate on; a step needs three times the pages.
UNEVEN = ("train.global_batch_size=12", "train.max_images=60", "train.log_every_images=12")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Shards of five pages."""
    folder = tmp_path_factory.mktemp("few") / "shards"
    command = [sys.executable, "-m", "shards.build", "--format", "synthetic", "--count", "5"]
    command += ["--val-fraction", "0.2", "--out", str(folder), "--workers", "1"]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    assert len(list(folder.glob("train-*.tar"))) == 1
    return folder


@pytest.fixture(scope="module")
def alone(trainer, few):
    trainer.train("few-1", *UNEVEN, f"data.shards={few}")
    return "few-1"


@pytest.mark.parametrize(
    ("engine", "processes"),
    [
        ("ddp", 4),
        pytest.param("ddp", 2, marks=pytest.mark.slow),
        pytest.param("ddp", 3, marks=pytest.mark.slow),
        pytest.param("zero3", 1, marks=pytest.mark.slow),
        pytest.param("zero3", 4, marks=pytest.mark.slow),
        pytest.param("fsdp2", 3, marks=pytest.mark.slow),
    ],
)
def test_more_ranks_than_shards_and_fewer_pages_than_a_batch(
    trainer, few, alone, engine, processes
):
    name = f"few-{engine}-{processes}"
    how = {"engine": engine, "processes": processes}
    out = trainer.train(name, *UNEVEN, f"data.shards={few}", **how)
    assert f"world_size={processes} " in out
    here, there = trainer.lines(name), trainer.lines(alone)
    assert len(there) == 5
    assert [line["ids_hash"] for line in here] == [line["ids_hash"] for line in there]
    for key in ("loss", "kl"):
        values = [line[key] for line in here]
        assert values == pytest.approx([line[key] for line in there], rel=1e-4), key
    (here,), (there,) = trainer.lines(name, "val"), trainer.lines(alone, "val")
    assert here["l1"] == pytest.approx(there["l1"], rel=1e-4)
