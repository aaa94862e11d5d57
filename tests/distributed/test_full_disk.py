"""A disk that is full while a run saves: the run continues or stops as set, and no step is lost."""

import time

import pytest

from tests.conftest import small_disk
from tests.distributed.conftest import Trainer
from tests.distributed.test_resume import checkpoints
from tests.support.tensors import same_bits
from vaetrain.artifacts import checkpoint
from vaetrain.artifacts.run_dir import METRICS_FILE, read_metrics

pytestmark = pytest.mark.slow
SETTINGS = (
    "train.max_images=1200",
    "train.checkpoint_every_images=24",
    "train.validate_every_images=240",
    "tracker=tensorboard",
)


@pytest.fixture(scope="module")
def uninterrupted(trainer):
    trainer.train("with-room", *SETTINGS, engine="ddp")
    return "with-room"


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "200m") as disk:
        yield disk


def start_and_fill_disk(trainer, disk, name, *settings):
    """Start a run, and fill its disk after the first checkpoint."""
    process = trainer.start(trainer.command(name, *SETTINGS, *settings, engine="ddp"))
    deadline = time.monotonic() + 170
    while not checkpoints(trainer, name):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    disk.fill()
    return process


def newest_images(trainer, name):
    """Return the image count of the newest checkpoint; raises if it is damaged."""
    newest = checkpoint.list_checkpoints(trainer.folder / name / "checkpoints")[-1]
    return checkpoint.load(newest).images


def logged(trainer, name, folder):
    """Return the metrics of a run that must not depend on the full disk."""
    lines = read_metrics(folder / name / METRICS_FILE)
    return [(x["split"], x["images"], x["loss"], x.get("ids_hash")) for x in lines]


def test_run_continues_with_a_warning(trainer, shards, disk, uninterrupted):
    here = Trainer(shards, disk.folder)
    process = start_and_fill_disk(here, disk, "continues")
    before = newest_images(here, "continues")
    for _ in range(20):  # a failed save frees space, which is filled again
        time.sleep(0.3)
        disk.fill()
    assert process.poll() is None
    assert newest_images(here, "continues") <= before + 48
    disk.free()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert "warning: no checkpoint at" in out
    assert "No space left on device" in out
    assert "the one before it stays, and training continues (train.on_failed_save)" in out
    assert same_bits(here.weights("continues"), trainer.weights(uninterrupted))
    assert logged(here, "continues", disk.folder) == logged(trainer, uninterrupted, trainer.folder)


def test_run_stops_by_the_setting_on_failed_save(trainer, shards, disk, uninterrupted):
    here = Trainer(shards, disk.folder)
    process = start_and_fill_disk(here, disk, "stops", "train.on_failed_save=stop")
    while process.poll() is None:
        disk.fill()
        time.sleep(0.1)
    _, err = process.communicate()
    assert process.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: no checkpoint at ")
    assert "No space left on device" in line
    saved = newest_images(here, "stops")
    disk.fill()
    refused = here.run(here.command("stops", *SETTINGS, engine="ddp"))
    assert refused.returncode == 1  # torch's launcher turns a rank's 2 into 1
    assert "cannot be written (No space left on device)" in refused.stderr
    disk.free()
    out = here.train("stops", *SETTINGS, engine="ddp")
    assert f"resuming at {saved} of 1200 images" in out
    assert same_bits(here.weights("stops"), trainer.weights(uninterrupted))
    assert logged(here, "stops", disk.folder) == logged(trainer, uninterrupted, trainer.folder)
