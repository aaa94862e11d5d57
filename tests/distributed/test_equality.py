"""However a global batch is cut over ranks and accumulation steps, the run is the same."""

import pytest
import torch

KINDS = {"plain": (), "augmented": ("augment.policy=strong", "augment.mixup_alpha=0.4")}
CUTS = {
    "two-ranks": ("ddp", "train.micro_batch_size=4"),
    "accumulation-2": ("single", "train.micro_batch_size=4"),
    "accumulation-4": ("single", "train.micro_batch_size=2"),
    "two-ranks-accumulation-2": ("ddp", "train.micro_batch_size=2"),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def reference(trainer, kind):
    trainer.train(f"{kind}-one-rank", *KINDS[kind])
    return f"{kind}-one-rank"


@pytest.fixture(scope="module", params=CUTS)
def cut(trainer, kind, request):
    engine, setting = CUTS[request.param]
    name = f"{kind}-{request.param}"
    trainer.train(name, setting, "data.workers=3", *KINDS[kind], engine=engine)
    return name


def relative_difference(ours: dict, theirs: dict) -> float:
    difference = sum((ours[name] - theirs[name]).square().sum() for name in theirs)
    return float((difference / sum(value.square().sum() for value in theirs.values())).sqrt())


def test_thirty_steps_agree(trainer, reference, cut):
    there, here = trainer.lines(reference), trainer.lines(cut)
    assert len(there) == 30
    assert [line["ids_hash"] for line in here] == [line["ids_hash"] for line in there]
    for key in ("loss", "recon", "kl"):
        values = [line[key] for line in here]
        assert values == pytest.approx([line[key] for line in there], rel=1e-5), key
    # Of a similarity near 0 the loss, 1 - SSIM, has the digits.
    values = [1 - line["ssim"] for line in here]
    assert values == pytest.approx([1 - line["ssim"] for line in there], rel=1e-5)
    norms = [line["grad_norm"] for line in here]
    assert norms == pytest.approx([line["grad_norm"] for line in there], rel=1e-4)
    assert relative_difference(trainer.weights(cut), trainer.weights(reference)) < 1e-4


def test_validation_agrees(trainer, reference, cut):
    (there,), (here,) = trainer.lines(reference, "val"), trainer.lines(cut, "val")
    assert here.keys() == there.keys()
    assert here["verdict"] == there["verdict"]
    for key, value in there.items():
        if key not in ("split", "verdict"):
            assert here[key] == pytest.approx(value, rel=1e-4), key


def test_the_start_from_components_is_the_same_on_two_ranks(trainer):
    lines = []
    for engine in ("single", "ddp"):
        settings = ("model.start=components", "train.max_images=32")
        trainer.train(f"components-{engine}", *settings, engine=engine)
        lines.append(trainer.lines(f"components-{engine}"))
    for here, there in zip(*lines, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)


def test_training_moves_the_weights(trainer, reference):
    """Or all the equalities above would hold for a trainer that does nothing."""
    losses = [line["loss"] for line in trainer.lines(reference)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    weights = trainer.weights(reference)
    assert not all(torch.equal(value, torch.zeros_like(value)) for value in weights.values())
