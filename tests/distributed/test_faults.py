"""What goes wrong in a run of days: done to real processes, told in one line, nothing lost."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.conftest import GAN

SETTINGS = (
    "train.max_images=40",
    "train.checkpoint_every_images=8",
    "train.keep_checkpoints=9",
    "data.workers=0",
    "lr.warmup_epochs=0",
)
ENGINES = [
    "single",
    "ddp",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("zero1", "zero2", "zero3")),
    pytest.param("zero3_offload", marks=pytest.mark.slow),
    pytest.param("fsdp2", marks=pytest.mark.slow),
]
CONTROLLED = ("beta.schedule=controller", "loss.combine=learned", *GAN, "gan.start_epoch=0")


def spoilt(trainer, name, mutation, *settings, engine):
    command = trainer.command(name, *settings, engine=engine, script="tests/distributed/mutant.py")
    command.insert(command.index("tests/distributed/mutant.py") + 1, mutation)
    return trainer.run(command)


def saved(trainer, name, images):
    folder = trainer.folder / name / "checkpoints" / f"{images:012d}"
    tensors = {
        f"{part}.{key}": value
        for part in ("weights", "average", "optimizer", "adversary")
        for key, value in load_file(folder / f"{part}.safetensors").items()
    }
    return tensors, json.loads((folder / "state.json").read_text())["controllers"]


def moved(trainer, name, before, after):
    """The tensors that differ between two checkpoints, and whether controllers do."""
    (ours, our_state), (theirs, their_state) = (
        saved(trainer, name, images) for images in (before, after)
    )
    assert ours.keys() == theirs.keys()
    names = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    return names, our_state != their_state


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_moves_in_a_step_that_is_not_finite(trainer, engine):
    name = f"bad-step-{engine}"
    done = spoilt(trainer, name, "one_bad_step", *SETTINGS, *CONTROLLED, engine=engine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert moved(trainer, name, 16, 24) == (set(), False)
    names, controllers = moved(trainer, name, 24, 32)
    assert controllers
    kinds = {key.partition(".")[0] for key in names}
    assert kinds == {"weights", "average", "optimizer", "adversary"}
    lines = trainer.lines(name)
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 0, 0]
    assert all(math.isfinite(v) for line in lines for v in line.values() if isinstance(v, float))
    ((ids,),) = [line["skipped_ids"] for line in lines if "skipped_ids" in line]
    assert len(set(ids)) == 8
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert told == (
        "warning: 1 of 1 steps up to 24 images were left out, for a loss or gradient was not "
        f"finite; their pages: {', '.join(map(str, ids))}"
    )


def test_too_many_of_them_in_a_row_end_the_run(trainer):
    settings = (*SETTINGS, "train.max_skipped_steps=2", "train.checkpoint_every_images=16")
    done = spoilt(trainer, "bad-steps", "bad_from_the_third", *settings, engine="ddp")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: stopped: 2 steps in a row were left out")
    assert "saved at 32 images" in line
    assert moved(trainer, "bad-steps", 16, 32) == (set(), False)
    assert "resuming at 32 of 40 images" in trainer.train("bad-steps", *settings, engine="ddp")
