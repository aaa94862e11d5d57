"""A run that is killed at any moment and resumed ends with the same weights."""

import json
import random
import shutil
import signal
import time

import pytest

from launch.processes import family, kill_family
from shards.atomic_files import sha256_of
from tests.support.tensors import relative_difference, same_bits

SETTINGS = (
    "train.max_images=600",
    "train.checkpoint_every_images=24",
    "train.validate_every_images=200",
    "augment.policy=strong",
    "augment.mixup_alpha=0.4",
)


def checkpoints(trainer, name):
    folder = trainer.folder / name / "checkpoints"
    return sorted(path.name for path in folder.glob("[0-9]*")) if folder.exists() else []


def kill_soon(trainer, name, engine, rng):
    """Start a run, wait for its next checkpoint, then send SIGKILL to all its processes."""
    process = trainer.start(trainer.command(name, *SETTINGS, engine=engine))
    before = checkpoints(trainer, name)[-1:]
    deadline = time.monotonic() + 120
    while checkpoints(trainer, name)[-1:] == before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    time.sleep(rng.uniform(0, 0.2))
    kill_family(process.mark)
    process.communicate()


@pytest.fixture(scope="module")
def uninterrupted(trainer):
    trainer.train("uninterrupted", *SETTINGS, engine="ddp")
    return "uninterrupted"


@pytest.mark.parametrize("times", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_run_gives_identical_weights(trainer, uninterrupted, times):
    killed, rng = f"killed-{times}", random.Random(0)
    for _ in range(times):
        kill_soon(trainer, killed, "ddp", rng)
    out = trainer.train(killed, *SETTINGS, engine="ddp")
    assert "resuming at" in out
    assert same_bits(trainer.weights(killed), trainer.weights(uninterrupted))
    for split in ("train", "val"):
        logged, expected = (
            [
                (line["images"], line.get("ids_hash"), line["loss"])
                for line in trainer.lines(name, split)
            ]
            for name in (killed, uninterrupted)
        )
        assert logged == expected


def test_run_resumes_with_another_number_of_ranks(trainer, uninterrupted):
    kill_soon(trainer, "moved", "ddp", random.Random(1))
    trainer.train("moved", *SETTINGS, engine="single")
    assert relative_difference(trainer.weights("moved"), trainer.weights(uninterrupted)) < 1e-4
    hashes = [
        [line["ids_hash"] for line in trainer.lines(name)] for name in ("moved", uninterrupted)
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_a_run_in_partitions_resumes_in_them_on_another_number_of_ranks(trainer):
    settings = [each for each in SETTINGS if "checkpoint_every" not in each]
    settings += ["train.max_images=120", "train.checkpoint_every_images=64"]
    trainer.train("partitions-1", *settings, "data.partitions=2")
    trainer.train("partitions-2", *settings, "data.partitions=2", engine="ddp")
    shutil.rmtree(trainer.folder / "partitions-2" / "checkpoints" / f"{120:012d}")
    shutil.rmtree(trainer.folder / "partitions-2" / "final")
    out = trainer.train("partitions-2", *settings)
    assert "resuming at 64 of 120 images" in out
    assert "data.partitions=2" in out
    found, expected = (trainer.lines(name) for name in ("partitions-2", "partitions-1"))
    assert len(found) == 15
    assert [line["ids_hash"] for line in found] == [line["ids_hash"] for line in expected]
    losses = [line["loss"] for line in found]
    assert losses == pytest.approx([line["loss"] for line in expected], rel=1e-5)
    for other, named in (
        ("data.partitions=1", "data.partitions (was 2, now 1)"),
        ("train.global_batch_size=9", "train.global_batch_size (was 8, now 9)"),
    ):
        done = trainer.run(
            trainer.command("partitions-2", *settings, "augment.mixup_alpha=0", other)
        )
        assert done.returncode != 0
        assert named in done.stdout + done.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_stop_signal_saves_a_checkpoint_and_the_run_resumes(trainer, uninterrupted, number):
    name = f"stopped-{number.name}"
    process = trainer.start(trainer.command(name, *SETTINGS, engine="ddp"))
    deadline = time.monotonic() + 120
    while not checkpoints(trainer, name):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert "stop requested: checkpoint saved at" in out
    stopped_at = int(checkpoints(trainer, name)[-1])
    assert f"saved at {stopped_at} images" in out
    out = trainer.train(name, *SETTINGS, engine="ddp")
    assert f"resuming at {stopped_at}" in out
    assert same_bits(trainer.weights(name), trainer.weights(uninterrupted))


def kill_launcher(process) -> None:
    """Kill a launcher, and wait until all processes that it started have ended."""
    process.kill()
    deadline = time.monotonic() + 30
    while family(process.mark):
        assert time.monotonic() < deadline, family(process.mark)
        time.sleep(0.1)
    process.communicate()


@pytest.mark.parametrize("engine", ["ddp", pytest.param("single", marks=pytest.mark.slow), None])
def test_ranks_and_reader_processes_end_with_the_launcher(trainer, engine):
    name = f"orphaned-{engine}"
    settings = ("train.max_images=1000000", "train.log_every_images=8")
    process = trainer.start(trainer.command(name, *settings, engine=engine))
    trainer.wait_for(name, process)
    kill_launcher(process)


def test_ranks_that_are_starting_end_with_the_launcher(trainer):
    command = trainer.command("starting", "train.max_images=1000000", engine="single")
    process = trainer.start(command)
    parents = {}
    # Wait until the rank has started its reader server and imports torch.
    while not any(parent in parents and parent != process.pid for parent in parents.values()):
        assert process.poll() is None
        time.sleep(0.05)
        parents = family(process.mark)
    kill_launcher(process)


def test_finished_run_is_reported_as_finished(trainer, uninterrupted):
    out = trainer.train(uninterrupted, *SETTINGS, engine="ddp")
    assert "is finished: 600 images" in out


def test_model_card_reports_the_last_validation(trainer, uninterrupted):
    card = (trainer.folder / uninterrupted / "final" / "README.md").read_text()
    last = trainer.lines(uninterrupted, "val")[-1]
    assert f"after {last['images']} images" in card
    assert f"| {last['l1']:.4g} |" in card
    assert "training pages" in card
    assert "![Pages decoded from the prior.](prior_samples.png)" in card


def test_changed_settings_are_refused_by_name(trainer, uninterrupted):
    command = trainer.command(uninterrupted, *SETTINGS, "optimizer.lr=1", "train.seed=9")
    done = trainer.run(command)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "optimizer.lr (was 0.001, now 1.0)" in line
    assert "train.seed (was 0, now 9)" in line


@pytest.mark.slow
def test_changed_policy_file_is_refused(trainer, tmp_path):
    path = tmp_path / "mine.yaml"
    settings = (f"augment.policy={path}", "train.max_images=16")
    path.write_text("flip: {probability: 0.5, magnitude: 1}\n")
    trainer.train("own-policy", *settings, engine=None)
    path.write_text("flip: {probability: 0.25, magnitude: 1}\n")
    done = trainer.run(trainer.command("own-policy", *settings, engine=None))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: augment.policy: the run was started with another policy")
    assert "flip.probability (was 0.5, now 0.25)" in line
    path.write_text("# the same, written otherwise\nflip:\n  magnitude: 1.0\n  probability: .5\n")
    assert "is finished: 16 images" in trainer.train("own-policy", *settings, engine=None)


@pytest.mark.slow
def test_checkpoint_of_an_older_version_is_refused_in_one_line(trainer):
    settings = ("train.max_images=16",)
    trainer.train("older", *settings, engine=None)
    path = trainer.folder / "older" / "checkpoints" / f"{16:012d}"
    state = json.loads((path / "state.json").read_text())
    meter = {name: value for name, value in state["meter"].items() if name != "verdicts"}
    without = {name: value for name, value in state.items() if name != "collapse"}
    for older, missing in ((without, "collapse"), (state | {"meter": meter}, "'verdicts'")):
        (path / "state.json").write_text(json.dumps(older))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["state.json"] = sha256_of(path / "state.json")
        (path / "manifest.json").write_text(json.dumps(manifest))
        done = trainer.run(trainer.command("older", *settings, engine=None))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"has no entry {missing}: it was written by another version of this program" in line


@pytest.mark.slow
def test_damaged_checkpoint_is_skipped(trainer):
    trainer.train("damaged", *SETTINGS)
    last = checkpoints(trainer, "damaged")[-1]
    # Cloned, because safetensors maps the file, which is changed below.
    before = {name: value.clone() for name, value in trainer.weights("damaged").items()}
    weights = trainer.folder / "damaged" / "checkpoints" / last / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    out = trainer.train("damaged", *SETTINGS)
    assert f"damaged checkpoint skipped: {weights}: SHA-256" in out
    assert "resuming at 576" in out
    assert same_bits(trainer.weights("damaged"), before)
