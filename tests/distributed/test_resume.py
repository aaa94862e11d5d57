"""Killed at any moment and started again, a run ends where it would have ended."""

import json
import random
import signal
import time

import pytest
import torch

from launch.soak import family, kill_family
from shards.storage import sha256_of

SETTINGS = (
    "train.max_images=1200",
    "train.checkpoint_every_images=24",
    "train.validate_every_images=400",
    "augment.policy=strong",
    "augment.mixup_alpha=0.4",
)


def checkpoints(trainer, name):
    folder = trainer.folder / name / "checkpoints"
    return sorted(path.name for path in folder.glob("[0-9]*")) if folder.exists() else []


def kill_soon(trainer, name, engine, chance):
    """Start a run, wait until it has got further by a checkpoint, then kill -9 all of it."""
    process = trainer.start(trainer.command(name, *SETTINGS, engine=engine))
    before = checkpoints(trainer, name)[-1:]
    deadline = time.monotonic() + 120
    while checkpoints(trainer, name)[-1:] == before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    time.sleep(chance.uniform(0, 0.2))
    kill_family(process.mark)
    process.communicate()


def same_bits(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(scope="module")
def undisturbed(trainer):
    trainer.train("undisturbed", *SETTINGS, engine="ddp")
    return "undisturbed"


def test_killed_five_times_the_weights_are_the_same_bits(trainer, undisturbed):
    chance = random.Random(0)
    for _ in range(5):
        kill_soon(trainer, "killed", "ddp", chance)
    out = trainer.train("killed", *SETTINGS, engine="ddp")
    assert "resuming at" in out
    assert same_bits(trainer.weights("killed"), trainer.weights(undisturbed))
    for split in ("train", "val"):
        told = [
            (line["images"], line.get("ids_hash"), line["loss"])
            for line in trainer.lines("killed", split)
        ]
        expected = [
            (line["images"], line.get("ids_hash"), line["loss"])
            for line in trainer.lines(undisturbed, split)
        ]
        assert told == expected


def test_it_goes_on_with_another_number_of_ranks(trainer, undisturbed):
    kill_soon(trainer, "moved", "ddp", random.Random(1))
    trainer.train("moved", *SETTINGS, engine="single")
    ours, theirs = trainer.weights("moved"), trainer.weights(undisturbed)
    difference = sum((ours[k] - theirs[k]).square().sum() for k in theirs)
    assert (difference / sum(v.square().sum() for v in theirs.values())).sqrt() < 1e-4
    hashes = [[line["ids_hash"] for line in trainer.lines(name)] for name in ("moved", undisturbed)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_saves_and_goes_on_later(trainer, undisturbed, number):
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
    assert same_bits(trainer.weights(name), trainer.weights(undisturbed))


def all_end(process) -> None:
    """Kill a launcher, after which all that it started has to end."""
    process.kill()
    deadline = time.monotonic() + 30
    while family(process.mark):
        assert time.monotonic() < deadline, family(process.mark)
        time.sleep(0.1)
    process.communicate()


@pytest.mark.parametrize("engine", ["ddp", "single", None])
def test_no_rank_outlives_its_launcher_and_no_reader_its_rank(trainer, engine):
    name = f"orphaned-{engine}"
    settings = ("train.max_images=1000000", "train.log_every_images=8")
    process = trainer.start(trainer.command(name, *settings, engine=engine))
    trainer.wait_for(name, process)
    all_end(process)


def test_no_rank_that_has_just_been_started_outlives_its_launcher(trainer):
    command = trainer.command("young", "train.max_images=1000000", engine="single")
    process = trainer.start(command)
    found = {}
    # The rank has started its readers' server, and imports torch now.
    while not any(parent in found and parent != process.pid for parent in found.values()):
        assert process.poll() is None
        time.sleep(0.05)
        found = family(process.mark)
    all_end(process)


def test_a_finished_run_says_so(trainer, undisturbed):
    out = trainer.train(undisturbed, *SETTINGS, engine="ddp")
    assert "is finished: 1200 images" in out


def test_its_model_card_tells_the_last_validation(trainer, undisturbed):
    card = (trainer.folder / undisturbed / "final" / "README.md").read_text()
    last = trainer.lines(undisturbed, "val")[-1]
    assert f"after {last['images']} images" in card
    assert f"| {last['l1']:.4g} |" in card
    assert "pages were trained on" in card
    assert "![Pages decoded from the prior.](prior_samples.png)" in card


def test_other_settings_are_refused_by_name(trainer, undisturbed):
    command = trainer.command(undisturbed, *SETTINGS, "optimizer.lr=1", "train.seed=9")
    done = trainer.run(command)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "optimizer.lr (was 0.001, now 1.0)" in line
    assert "train.seed (was 0, now 9)" in line


def test_a_policy_file_that_was_changed_is_refused(trainer, tmp_path):
    path = tmp_path / "mine.yaml"
    settings = (f"augment.policy={path}", "train.max_images=16")
    path.write_text("flip: {probability: 0.5, magnitude: 1}\n")
    trainer.train("own-policy", *settings, engine=None)
    path.write_text("flip: {probability: 0.25, magnitude: 1}\n")
    done = trainer.run(trainer.command("own-policy", *settings, engine=None))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: augment.policy: is not what it was")
    assert "flip.probability (was 0.5, now 0.25)" in line
    path.write_text("# the same, written otherwise\nflip:\n  magnitude: 1.0\n  probability: .5\n")
    assert "is finished: 16 images" in trainer.train("own-policy", *settings, engine=None)


@pytest.mark.slow
def test_a_checkpoint_of_an_older_version_is_refused_in_a_line(trainer):
    settings = ("train.max_images=16",)
    trainer.train("older", *settings, engine=None)
    path = trainer.folder / "older" / "checkpoints" / f"{16:012d}"
    state = json.loads((path / "state.json").read_text())
    meter = {name: value for name, value in state["meter"].items() if name != "verdicts"}
    without = {name: value for name, value in state.items() if name != "collapse"}
    for older, lacks in ((without, "collapse"), (state | {"meter": meter}, "'verdicts'")):
        (path / "state.json").write_text(json.dumps(older))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["state.json"] = sha256_of(path / "state.json")
        (path / "manifest.json").write_text(json.dumps(manifest))
        done = trainer.run(trainer.command("older", *settings, engine=None))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"says nothing of {lacks}: another version of this software wrote it" in line


def test_a_damaged_checkpoint_is_passed_over(trainer):
    trainer.train("damaged", *SETTINGS)
    last = checkpoints(trainer, "damaged")[-1]
    # Copied: they are read from the file as they are needed.
    before = {name: value.clone() for name, value in trainer.weights("damaged").items()}
    weights = trainer.folder / "damaged" / "checkpoints" / last / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    out = trainer.train("damaged", *SETTINGS)
    assert f"checkpoint passed over: {weights}: its SHA-256" in out
    assert "resuming at 1176" in out
    assert same_bits(trainer.weights("damaged"), before)
