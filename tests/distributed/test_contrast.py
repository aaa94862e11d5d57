"""A run with a contrastive loss is the same for every division of its global batch, and resumed."""

import shutil

import pytest

from tests.support.tensors import relative_difference, same_bits

pytestmark = pytest.mark.slow
TERM = ("loss.contrastive=0.05", "train.max_images=48")


@pytest.fixture(scope="module")
def reference(trainer):
    trainer.train("contrast-one-rank", *TERM)
    return "contrast-one-rank"


@pytest.mark.parametrize("engine", ["ddp", "zero3", "fsdp2"])
def test_ranks_and_accumulation_change_nothing(trainer, reference, engine):
    name = f"contrast-{engine}"
    trainer.train(name, "train.micro_batch_size=2", *TERM, engine=engine)
    expected, found = trainer.lines(reference), trainer.lines(name)
    assert [line["ids_hash"] for line in found] == [line["ids_hash"] for line in expected]
    for key in ("loss", "contrastive", "kl"):
        values = [line[key] for line in found]
        assert values == pytest.approx([line[key] for line in expected], rel=1e-4), key
    assert all(line["contrastive"] > 0 for line in expected)
    assert relative_difference(trainer.weights(name), trainer.weights(reference)) < 1e-4
    assert "contrastive" not in trainer.lines(name, "val")[-1]


def test_resume_gives_identical_weights(trainer):
    name = "contrast-resumed"
    settings = (*TERM, "train.checkpoint_every_images=24")
    trainer.train(name, *settings)
    expected = trainer.weights(name)
    last = max((trainer.folder / name / "checkpoints").iterdir())
    shutil.rmtree(last)
    shutil.rmtree(trainer.folder / name / "final")
    assert "resuming at 24 of 48 images" in trainer.train(name, *settings)
    assert same_bits(trainer.weights(name), expected)
