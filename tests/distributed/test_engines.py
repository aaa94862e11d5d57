"""Whatever engine spreads the model, the run is the same: its losses, its weights, its resumption.

What is trained is a line of `KINDS`; every test of this file holds for each of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.distributed.conftest import GAN
from tests.support.paths import REPO

KINDS = {"vae": (), "vaegan": GAN}
# Warm-up and a constant rate: the same for any horizon, so that a run may stop half-way. Clipping
# bites at some steps and not at others.
SETTINGS = (
    "train.micro_batch_size=2",
    "optimizer.clip_norm=0.4",
    "lr.schedule=constant",
    "data.workers=0",
)
ONE = (*SETTINGS, "train.micro_batch_size=4")  # one process: as many accumulation steps
ENGINES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
STEPS, HALFWAY = 30, 120
TITLE = "largest relative difference to one process over 30 steps"


@pytest.fixture(scope="session")
def engine_file(tmp_path_factory):
    """The path of an engine's file; fsdp2's cuts even this small model into several units."""

    def path(engine: str) -> Path:
        shipped = REPO / "accelerate_configs" / f"{engine}.yaml"
        if engine != "fsdp2":
            return shipped
        own = tmp_path_factory.mktemp("fsdp2") / shipped.name
        text = shipped.read_text()
        assert "fsdp_min_num_params: 1000000" in text
        own.write_text(text.replace("1000000", "20000"))
        return own

    return path


@pytest.fixture(scope="module", params=[pytest.param("vae", marks=pytest.mark.slow), "vaegan"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def alone(trainer, kind):
    """The run of one process."""
    trainer.train(f"{kind}-alone", *KINDS[kind], *ONE)
    return f"{kind}-alone"


@pytest.fixture(scope="module")
def spread(trainer, kind, engine_file):
    """Trains once under an engine, with a checkpoint half-way; the run's name and what it said."""
    told: dict[str, str] = {}

    def train(engine: str) -> tuple[str, str]:
        name = f"{kind}-{engine}"
        if engine not in told:
            settings = (*KINDS[kind], *SETTINGS, f"train.checkpoint_every_images={HALFWAY}")
            told[engine] = trainer.train(name, *settings, engine=engine_file(engine))
        return name, told[engine]

    return train


LOSSES = ("loss", "recon", "ssim", "kl", "g_loss", "d_loss")
# The gradient of an L1 jumps where a pixel ties, so its norm differs sooner than any loss.
NORMS = ("grad_norm", "adaptive_weight")
# Of a similarity near 0 the loss, 1 - SSIM, has the digits; a hinge is made of 1 - its logits.
FROM_ONE = ("ssim", "g_loss")


def differences(trainer, name: str, reference: str) -> dict[str, float]:
    """The largest relative difference of each part of the loss, and of the norms."""
    here, there = trainer.lines(name), trainer.lines(reference)
    there = [line for line in there if line["images"] <= here[-1]["images"]]
    assert [line["ids_hash"] for line in here] == [line["ids_hash"] for line in there]
    assert [line.keys() for line in here] == [line.keys() for line in there]
    largest: dict[str, float] = {}
    for mine, other in zip(here, there, strict=True):
        for key in (*LOSSES, *NORMS):
            if key in other:
                a, b = mine[key], other[key]
                if key in FROM_ONE:
                    a, b = 1 - a, 1 - b
                largest[key] = max(largest.get(key, 0.0), abs(a - b) / abs(b))
    return largest


def assert_equal_losses(found: dict[str, float]) -> None:
    """Assert that the output of `differences` is as small as another order of sums makes it."""
    assert max(value for key, value in found.items() if key in LOSSES) < 1e-4, found
    assert max(value for key, value in found.items() if key in NORMS) < 1e-3, found


def relative_difference(ours: dict, theirs: dict) -> float:
    """The norm of the difference of two sets of tensors, in parts of the second's."""
    assert ours.keys() == theirs.keys()
    ours, theirs = (
        torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
        for tensors in (ours, theirs)
    )
    return float((ours - theirs).norm() / theirs.norm())


def test_clipping_bites_at_some_steps(trainer, alone):
    shares = {line["clipped_share"] for line in trainer.lines(alone)}
    assert shares == {0.0, 1.0}
    assert len(trainer.lines(alone)) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_thirty_steps_are_those_of_one_process(trainer, alone, kind, engine, spread, tables):
    name, out = spread(engine)
    assert f"engine={engine} backend=gloo world_size=2" in out
    assert "micro_batch=2 accumulation=2" in out
    found = differences(trainer, name, alone)
    (here,), (there,) = trainer.lines(name, "val"), trainer.lines(alone, "val")
    weights = {
        part: relative_difference(trainer.weights(name, part), theirs)
        for part in ("weights", "average", "optimizer", "adversary")
        if (theirs := trainer.weights(alone, part))
    }
    numbers = found | weights
    rows = tables.setdefault(f"{kind}: {TITLE}", [])
    if not rows:
        rows.append("| engine | " + " | ".join(numbers) + " |")
        rows.append("|" + "---|" * (1 + len(numbers)))
    rows.append(f"| {engine} x2 | " + " | ".join(f"{n:.1e}" for n in numbers.values()) + " |")
    assert_equal_losses(found)
    assert weights.pop("optimizer") < 1e-3
    assert max(weights.values()) < 1e-4, weights
    for key, value in there.items():
        if key not in ("split", "verdict"):
            assert here[key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_is_the_undisturbed_one(trainer, kind, engine, spread, engine_file):
    """A run that lost all that it did after its checkpoint half-way does the same again."""
    undisturbed, _ = spread(engine)
    name = f"{undisturbed}-resumed"
    folder = trainer.folder / name
    shutil.copytree(trainer.folder / undisturbed, folder)
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / f"{8 * STEPS:012d}")
    out = trainer.train(name, *KINDS[kind], *SETTINGS, engine=engine_file(engine))
    assert f"resuming at {HALFWAY} of 240 images" in out
    assert max(differences(trainer, name, undisturbed).values()) < 1e-5
    for part in ("weights", "average"):
        ours, theirs = trainer.weights(name, part), trainer.weights(undisturbed, part)
        assert relative_difference(ours, theirs) < 1e-5


def test_a_run_wanders_over_engines_and_world_sizes(trainer, alone, kind, engine_file):
    """Each takes up where another has left, and all are together what one process is."""
    name = f"{kind}-wandering"
    for turn, engine in enumerate(("zero3", "single", "fsdp2", "zero1"), start=1):
        settings = (*SETTINGS, f"train.max_images={60 * turn}")
        out = trainer.train(name, *KINDS[kind], *settings, engine=engine_file(engine))
        assert f"engine={engine} " in out
        if turn > 1:
            assert "resuming at " in out
    assert len(trainer.lines(name)) == STEPS
    found = differences(trainer, name, alone)
    assert_equal_losses(found)


@pytest.mark.parametrize(
    "mutation", ["forward_unwrapped", "accumulation_not_averaged", "ranks_not_averaged"]
)
def test_a_broken_trainer_is_noticed(trainer, alone, kind, mutation):
    """The comparison above has to fail for what it is there to find."""
    name = f"{kind}-{mutation}"
    settings = (*KINDS[kind], *SETTINGS, "train.max_images=80")
    command = trainer.command(name, *settings, engine="ddp", script="tests/distributed/mutant.py")
    command.insert(command.index("tests/distributed/mutant.py") + 1, mutation)
    done = trainer.run(command)
    assert done.returncode == 0, done.stderr
    found = differences(trainer, name, alone)
    # Adam, and clipping at every step, hide a gradient's scale from the loss, but not its norm.
    with pytest.raises(AssertionError):
        assert_equal_losses(found)


# Slow enough that runs in fp32 stay together, too: at 5e-4 those of two engines, which add up in
# another order, were 1.3% apart after 180 steps; here they are alike for 200.
BF16 = (
    "train.max_images=2400",
    "train.log_every_images=240",
    "lr.schedule=constant",
    "optimizer.lr=2e-4",
    "train.validate_every_images=100000",
)


@pytest.fixture(scope="module")
def exact(trainer, kind):
    """Three hundred steps in fp32."""
    trainer.train(f"{kind}-exact", *KINDS[kind], *SETTINGS, *BF16, engine="ddp")
    return f"{kind}-exact"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["vae"], scope="module")  # no game goes the same way for so long
def test_bf16_follows_fp32(trainer, exact, kind, engine, engine_file, tables):
    name = f"{kind}-{engine}-bf16"
    settings = (*KINDS[kind], *SETTINGS, *BF16, "train.precision=bf16")
    trainer.train(name, *settings, engine=engine_file(engine))
    here = [line["loss"] for line in trainer.lines(name)]
    there = [line["loss"] for line in trainer.lines(exact)]
    apart = [abs(a - b) / b for a, b in zip(here, there, strict=True)]
    told = f"{name}: {max(apart[:4]):.2%} in the first 120, {max(apart):.2%} in all"
    tables.setdefault("bf16 against fp32 over 300 steps", []).append(told)
    assert here != there
    assert max(apart[:4]) < 0.002
    assert max(apart) < 0.03
    # Weights and moments were never rounded to bf16: hardly one of its numbers is among them.
    for part in ("weights", "average", "optimizer"):
        for tensor_name, tensor in trainer.weights(name, part).items():
            assert tensor.dtype == torch.float32, tensor_name
            moved = tensor[tensor != 0].flatten()
            if moved.numel() > 1000:
                rounded = (moved == moved.bfloat16().float()).float().mean()
                assert rounded < 0.05, tensor_name
