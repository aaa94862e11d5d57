"""A VAE-GAN run is the same for every split of the batch, and after a kill."""

import time

import pytest

from launch.processes import kill_family
from tests.distributed.conftest import GAN
from tests.support.tensors import relative_difference, same_bits

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
SPLIT = "train.micro_batch_size=2"  # two accumulation steps on two ranks
LOSSES = ("loss", "recon", "ssim", "kl", "g_loss", "feature_matching", "d_loss", "r1", "lecam")
LOSSES += ("d_logit_real", "d_logit_fake", "d_accuracy")
# The gradients of an L1 and of a hinge are discontinuous, so their norms differ sooner.
NORMS = ("grad_norm", "d_grad_norm", "adaptive_weight")
# Logits may be near 0, but the losses depend on their distance from 1 or -1.
SCALE = {"d_logit_real": 1.0, "d_logit_fake": 1.0}


def worst_difference(lines: list[dict], reference: list[dict], keys: tuple[str, ...]) -> float:
    """Return the largest relative difference between the lines of two runs."""
    assert [line.keys() for line in lines] == [line.keys() for line in reference]
    return max(
        abs(line[key] - expected[key]) / max(abs(expected[key]), SCALE.get(key, 1e-3))
        for line, expected in zip(lines, reference, strict=True)
        for key in keys
        if key in expected
    )


@pytest.fixture(
    scope="module",
    params=[
        "hinge-patch",
        *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "hinge-patch"),
    ],
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def reference(trainer, kind):
    return one_process_run(trainer, kind)


def one_process_run(trainer, kind: str) -> str:
    """Train the run of one process unless it exists; return its name."""
    name = f"gan-{kind}"
    if not (trainer.folder / name).exists():
        trainer.train(name, *GAN, *CLIPPED, *KINDS[kind])
    return name


def test_thirty_steps_agree(trainer, kind, reference):
    name = f"{reference}-split"
    trainer.train(name, *GAN, *CLIPPED, *KINDS[kind], SPLIT, engine="ddp")
    expected, found = trainer.lines(reference), trainer.lines(name)
    assert len(expected) == 30
    assert worst_difference(found, expected, LOSSES) < 1e-4
    assert worst_difference(found, expected, NORMS) < 1e-3
    for part in ("weights", "adversary"):
        split, whole = trainer.weights(name, part), trainer.weights(reference, part)
        assert relative_difference(split, whole) < 1e-4, part


def test_reference_run_trains_its_discriminator(trainer, kind, reference):
    """Otherwise the test above would pass without a discriminator."""
    lines = trainer.lines(reference)
    with_gan = [line for line in lines if "g_loss" in line]
    assert len(lines) - len(with_gan) == 6
    assert sum(line["clipped_share"] for line in lines) > 0.8 * len(lines)
    updated = [line for line in with_gan if "d_loss" in line]
    assert len(updated) == (12 if kind == "lecam-patch" else 24)
    assert sum(line["d_clipped_share"] for line in updated) > 0.8 * len(updated)
    assert len({line["adaptive_weight"] for line in with_gan}) == len(with_gan)
    warming = [line["epoch"] < 1.5 for line in with_gan]
    assert 0 < sum(warming) < 6
    assert updated[-1]["d_logit_real"] > updated[-1]["d_logit_fake"]


@pytest.mark.slow
@pytest.mark.parametrize("mutation", ["adaptive_weight_local", "discriminator_local"])
def test_missing_reductions_over_ranks_are_detected(trainer, mutation):
    """The run changes if each rank has its own adaptive weight or its own discriminator."""
    name, script = f"gan-{mutation}", "tests/distributed/programs/mutant.py"
    command = trainer.command(name, *GAN, *CLIPPED, SPLIT, engine="ddp", script=script)
    command.insert(command.index(script) + 1, mutation)
    done = trainer.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, found = trainer.lines(one_process_run(trainer, "hinge-patch")), trainer.lines(name)
    assert worst_difference(found, expected, LOSSES) > 1e-4
    assert worst_difference(found, expected, NORMS) > 1e-3


@pytest.mark.slow
def test_resume_after_a_kill_gives_identical_bits(trainer):
    settings = (*GAN, *KINDS["lecam-patch"], SPLIT)
    settings += ("train.log_every_images=24", "train.checkpoint_every_images=40")
    trainer.train("gan-uninterrupted", *settings, engine="ddp")
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
        killed, uninterrupted = (
            trainer.weights(f"gan-{name}", part) for name in ("killed", "uninterrupted")
        )
        assert same_bits(killed, uninterrupted), part
    lines = [trainer.lines(f"gan-{name}") for name in ("killed", "uninterrupted")]
    assert worst_difference(*lines, ("images", *LOSSES, *NORMS)) == 0
