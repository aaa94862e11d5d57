"""A VAE-GAN is the same run however its batches are cut, and after a crash."""

import time

import pytest
import torch

from launch.soak import kill_family
from tests.distributed.conftest import GAN

KINDS = {
    "hinge-patch": (),
    "r1-light": (
        "gan.discriminator=light",
        "gan.loss=nonsaturating",
        "gan.regularizer=r1",
        "gan.feature_matching=0.5",
        "gan.updates=2",
    ),
    "lecam-patch": ("gan.loss=leastsquares", "gan.regularizer=lecam", "gan.updates=0.5"),
}
CLIPPED = ("optimizer.clip_norm=0.05", "gan.clip_norm=0.1")
CUT = "train.micro_batch_size=2"  # on two ranks accumulation 2
LOSSES = ("loss", "recon", "ssim", "kl", "g_loss", "feature_matching", "d_loss", "r1", "lecam")
LOSSES += ("d_logit_real", "d_logit_fake", "d_accuracy")
# Gradients of an L1 and of a hinge jump where a value ties; their norms differ sooner.
NORMS = ("grad_norm", "d_grad_norm", "adaptive_weight")
# Logits may be near 0; the losses are made of their distance from 1 or -1.
SCALE = {"d_logit_real": 1.0, "d_logit_fake": 1.0}


def worst_difference(ours: list[dict], theirs: list[dict], keys: tuple[str, ...]) -> float:
    """The largest relative difference between two runs' lines."""
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    return max(
        abs(mine[key] - other[key]) / max(abs(other[key]), SCALE.get(key, 1e-3))
        for mine, other in zip(ours, theirs, strict=True)
        for key in keys
        if key in other
    )


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def reference(trainer, kind):
    return alone(trainer, kind)


def alone(trainer, kind: str) -> str:
    """The run of one process, trained once."""
    name = f"gan-{kind}"
    if not (trainer.folder / name).exists():
        trainer.train(name, *GAN, *CLIPPED, *KINDS[kind])
    return name


def test_thirty_steps_agree(trainer, kind, reference):
    name = f"{reference}-cut"
    trainer.train(name, *GAN, *CLIPPED, *KINDS[kind], CUT, engine="ddp")
    there, here = trainer.lines(reference), trainer.lines(name)
    assert len(there) == 30
    assert worst_difference(here, there, LOSSES) < 1e-4
    assert worst_difference(here, there, NORMS) < 1e-3
    for part in ("weights", "adversary"):
        ours, theirs = trainer.weights(name, part), trainer.weights(reference, part)
        assert ours.keys() == theirs.keys()
        difference = sum((ours[key] - theirs[key]).square().sum() for key in theirs)
        size = sum(value.square().sum() for value in theirs.values())
        assert (difference / size).sqrt() < 1e-4, part


def test_what_the_equality_is_of(trainer, kind, reference):
    """Or it would hold for a discriminator that never plays."""
    lines = trainer.lines(reference)
    playing = [line for line in lines if "g_loss" in line]
    assert len(lines) - len(playing) == 6
    assert sum(line["clipped_share"] for line in lines) > 0.8 * len(lines)
    updated = [line for line in playing if "d_loss" in line]
    assert len(updated) == (12 if kind == "lecam-patch" else 24)
    assert sum(line["d_clipped_share"] for line in updated) > 0.8 * len(updated)
    assert len({line["adaptive_weight"] for line in playing}) == len(playing)
    warming = [line["epoch"] < 1.5 for line in playing]
    assert 0 < sum(warming) < 6
    assert updated[-1]["d_logit_real"] > updated[-1]["d_logit_fake"]


@pytest.mark.parametrize("mutation", ["adaptive_weight_local", "discriminator_local"])
def test_the_equality_sees_what_is_only_local(trainer, mutation):
    """With weights of its own, or a discriminator of its own, each rank plays another game."""
    name, script = f"gan-{mutation}", "tests/distributed/mutant.py"
    command = trainer.command(name, *GAN, *CLIPPED, CUT, engine="ddp", script=script)
    command.insert(command.index(script) + 1, mutation)
    done = trainer.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    there, here = trainer.lines(alone(trainer, "hinge-patch")), trainer.lines(name)
    assert worst_difference(here, there, LOSSES) > 1e-4
    assert worst_difference(here, there, NORMS) > 1e-3


def test_killed_it_goes_on_with_the_same_bits(trainer):
    settings = (*GAN, *KINDS["lecam-patch"], CUT)
    settings += ("train.log_every_images=24", "train.checkpoint_every_images=40")
    trainer.train("gan-undisturbed", *settings, engine="ddp")
    process = trainer.start(trainer.command("gan-killed", *settings, engine="ddp"))
    saved = trainer.folder / "gan-killed" / "checkpoints" / f"{120:012d}"
    deadline = time.monotonic() + 300
    while not saved.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_family(process.mark)
    process.communicate()
    assert "resuming at" in trainer.train("gan-killed", *settings, engine="ddp")
    for part in ("weights", "optimizer", "adversary"):
        ours, theirs = (trainer.weights(f"gan-{name}", part) for name in ("killed", "undisturbed"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), part
    lines = [trainer.lines(f"gan-{name}") for name in ("killed", "undisturbed")]
    assert worst_difference(*lines, ("images", *LOSSES, *NORMS)) == 0
