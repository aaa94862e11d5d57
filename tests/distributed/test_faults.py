"""Faults of long runs, caused in real processes: one line reports each, and no step is lost."""

import math
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch

from launch.processes import kill_family, ranks
from tests.conftest import small_disk
from tests.distributed.conftest import GAN
from tests.support.tensors import same_bits
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.run_dir import LOCK_SECONDS

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


def run_mutant(trainer, name, mutation, *settings, engine):
    command = trainer.command(
        name, *settings, engine=engine, script="tests/distributed/programs/mutant.py"
    )
    command.insert(command.index("tests/distributed/programs/mutant.py") + 1, mutation)
    return trainer.run(command)


def checkpoint_content(trainer, name, images):
    """Return the tensors of a checkpoint by name, and its controllers."""
    saved = checkpoint.load(trainer.folder / name / "checkpoints" / f"{images:012d}")
    tensors = {
        f"{part}.{key}": value
        for part in ("weights", "average", "optimizer", "adversary")
        for key, value in getattr(saved, part).items()
    }
    return tensors, saved.state["controllers"]


def changes(trainer, name, before, after):
    """Return the tensors that differ between two checkpoints, and whether controllers differ."""
    (old, old_controllers), (new, new_controllers) = (
        checkpoint_content(trainer, name, images) for images in (before, after)
    )
    assert old.keys() == new.keys()
    names = {key for key in old if not torch.equal(old[key], new[key])}
    return names, old_controllers != new_controllers


@pytest.mark.parametrize(
    "mutation", ["one_bad_step", pytest.param("one_bad_gradient", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_non_finite_step_changes_no_state(trainer, engine, mutation):
    name = f"{mutation}-{engine}"
    done = run_mutant(trainer, name, mutation, *SETTINGS, *CONTROLLED, engine=engine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert changes(trainer, name, 16, 24) == (set(), False)
    names, controllers = changes(trainer, name, 24, 32)
    assert controllers
    kinds = {key.partition(".")[0] for key in names}
    assert kinds == {"weights", "average", "optimizer", "adversary"}
    lines = trainer.lines(name)
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 0, 0]
    assert all(math.isfinite(v) for line in lines for v in line.values() if isinstance(v, float))
    ((ids,),) = [line["skipped_ids"] for line in lines if "skipped_ids" in line]
    assert len(set(ids)) == 8
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert warning == (
        "warning: 1 of 1 steps up to 24 images skipped because a loss or gradient was not "
        f"finite; their pages: {', '.join(map(str, ids))}"
    )


@pytest.mark.slow
def test_too_many_consecutive_non_finite_steps_end_the_run(trainer):
    settings = (*SETTINGS, "train.max_skipped_steps=2", "train.checkpoint_every_images=16")
    done = run_mutant(trainer, "bad-steps", "bad_from_the_third", *settings, engine="ddp")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: stopped: 2 steps in a row were skipped")
    assert "saved at 32 images" in line
    assert changes(trainer, "bad-steps", 16, 32) == (set(), False)
    assert "resuming at 32 of 40 images" in trainer.train("bad-steps", *settings, engine="ddp")


@pytest.mark.slow
def test_jumping_system_clock_changes_no_bit(trainer):
    settings = (*SETTINGS, "tracker=tensorboard", "train.validate_every_images=16")
    trainer.train("clock", *settings, engine="ddp")
    done = run_mutant(trainer, "jumping-clock", "clock_jumps", *settings, engine="ddp")
    assert done.returncode == 0, done.stderr
    assert same_bits(trainer.weights("jumping-clock"), trainer.weights("clock"))
    rates = [line["images_per_second"] for line in trainer.lines("jumping-clock")]
    assert all(0 < rate < 1e5 for rate in rates)


LONG = ("train.max_images=1000000", "train.checkpoint_every_images=24", "data.workers=1")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["removed", "replaced", "rebuilt"])
def test_shards_changed_during_a_run_end_it(trainer, shards, tmp_path, damage):
    name, copy = f"shards-{damage}", tmp_path / "shards"
    shutil.copytree(shards, copy)
    settings = (*LONG, "train.validate_every_images=40", f"data.shards={copy}")
    process = trainer.start(trainer.command(name, *settings, engine="ddp"))
    trainer.wait_for(name, process)
    for path in copy.glob("train-*.tar"):
        other = path.with_suffix(".new")
        other.write_bytes(path.read_bytes()[::-1])
        if damage == "removed":
            path.unlink()
        elif damage == "replaced":
            other.replace(path)
    if damage == "rebuilt":
        header = (copy / "index.json").read_text()
        (copy / "index.json").write_text(header.replace('"samples"', '"samples_once"', 1))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    expected = {
        "removed": "cannot be opened (No such file or directory)",
        "replaced": "was changed while it was in use: SHA-256 differs from index.json",
        "rebuilt": "index.json: ",
    }
    assert expected[damage] in error
    assert str(copy) in error
    shutil.rmtree(copy)
    shutil.copytree(shards, copy)
    saved = max((trainer.folder / name / "checkpoints").glob("[0-9]*"), default=None)
    settings = (*settings, f"train.max_images={24 if saved is None else int(saved.name) + 24}")
    out = trainer.train(name, *settings, engine="ddp")
    assert saved is None or f"resuming at {int(saved.name)}" in out


@pytest.mark.slow
def test_second_run_in_a_run_directory_does_not_affect_the_first(trainer):
    # Constant schedules: the run is stopped early, and its planned length must not matter.
    settings = (*LONG, "lr.schedule=constant", "beta.schedule=constant")
    command = trainer.command("shared", *settings, engine="ddp")
    first = trainer.start(command)
    try:
        trainer.wait_for("shared", first)
        first_ranks = ranks(first.mark, first.pid).values()
        for rank in first_ranks:  # paused, so that it does not train far
            os.kill(rank, signal.SIGSTOP)
        started = time.monotonic()
        second = trainer.run(command)
        assert time.monotonic() - started < LOCK_SECONDS + 60  # including the start
        assert second.returncode == 1  # torch's launcher turns a rank's 2 into 1
        (error,) = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
        folder = trainer.folder / "shared"
        assert error == f"error: {folder}: another training is running in this directory"
        for rank in first_ranks:
            os.kill(rank, signal.SIGCONT)
        first.send_signal(signal.SIGTERM)
        out, err = first.communicate(timeout=60)
    finally:
        kill_family(first.mark)
    assert "stop requested: checkpoint saved at" in out, out + err
    images = max(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))
    trainer.train("not-shared", *settings, f"train.max_images={images}", engine="ddp")
    assert same_bits(trainer.weights("shared"), trainer.weights("not-shared"))


@pytest.mark.slow
def test_read_only_run_directory_is_refused(trainer, tmp_path):
    with small_disk(tmp_path / "disk", "100m") as disk:
        settings = ("train.max_images=16", "--run-dir", str(disk.folder / "run"))
        trainer.train("read-only", *settings, engine=None)
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
        done = trainer.run(trainer.command("read-only", *settings, engine=None))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == f"error: {disk.folder / 'run'}: cannot be written (Read-only file system)"
