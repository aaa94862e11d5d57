"""Training from a server that fails gives the same weights as training from the disk."""

import re
import subprocess
import time
from urllib.parse import urlsplit

import pytest

from launch.processes import family, kill_family
from shards.open import open_index
from tests.shards.remote.test_remote import cached
from tests.support.page_server import PageServer, served_by_s3
from tests.support.tensors import same_bits

SETTINGS = (
    "train.max_images=480",
    "train.checkpoint_every_images=24",
    "augment.policy=strong",
    "data.window_shards=1",
    "data.prefetch=1",
)
RETRY_SECONDS = 4
ROOM = 2  # shards in the cache


@pytest.fixture(scope="module")
def from_disk(trainer):
    trainer.train("from-disk", *SETTINGS, engine="ddp")
    return "from-disk"


@pytest.fixture
def server(shards, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = PageServer(shards)
    found.start()
    yield found
    found.stop()


def remote_settings(address, shards, folder):
    """Return settings with a cache of two shards, so that shards are fetched throughout the run."""
    room = ROOM * max(shard.bytes for shard in open_index(shards).shards)
    return (
        *SETTINGS,
        f"data.shards={address}",
        f"data.cache_dir={folder}",
        f"data.cache_gb={room / 1e9}",
        f"data.retry_seconds={RETRY_SECONDS}",
    )


def train_and_measure_cache(trainer, name, settings, folder):
    """Run a training that must succeed; return the largest size of its cache in bytes."""
    process = trainer.start(trainer.command(name, *settings, engine="ddp"))
    largest, until = 0, time.monotonic() + 300
    while time.monotonic() < until:
        try:
            out, err = process.communicate(timeout=0.02)
        except subprocess.TimeoutExpired:
            largest = max(largest, cached(folder))
        else:
            assert process.returncode == 0, out + err
            return largest
    kill_family(process.mark)
    raise AssertionError(process.communicate())


def check_training(trainer, from_disk, server, settings, folder):
    """Train from a failing server; assert that losses and weights are those from the disk."""
    name = f"{urlsplit(server.url).port}-{server.fault}"
    shards = open_index(trainer.shards).shards
    largest = max(shard.bytes for shard in shards)
    cache_size = train_and_measure_cache(trainer, name, settings, folder)
    assert server.failed >= 2
    assert server.failed == len(server.requests) // server.every
    # Shards were removed from the cache and fetched again.
    assert len(server.tars) > 2 * len(shards)
    assert largest <= cache_size <= ROOM * largest
    assert same_bits(trainer.weights(name), trainer.weights(from_disk))
    logged = [
        [(line["loss"], line["ids_hash"]) for line in trainer.lines(n)] for n in (name, from_disk)
    ]
    assert logged[0] == logged[1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["truncated", 503])
def test_a_failing_web_server_gives_identical_weights(trainer, from_disk, server, tmp_path, fault):
    server.every, server.fault = 20, fault
    settings = remote_settings(server.url, server.folder, tmp_path)
    check_training(trainer, from_disk, server, settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["truncated", 503])
def test_a_failing_s3_gives_identical_weights(trainer, from_disk, shards, tmp_path, fault):
    with served_by_s3(shards) as (address, server):
        server.every, server.fault = 20, fault
        settings = remote_settings(address, shards, tmp_path)
        check_training(trainer, from_disk, server, settings, tmp_path)


@pytest.mark.slow
def test_a_dead_server_ends_the_run_and_the_run_resumes_later(trainer, from_disk, server, tmp_path):
    settings = remote_settings(server.url, server.folder, tmp_path)
    process = trainer.start(trainer.command("died", *settings, engine="ddp"))
    try:
        trainer.wait_for("died", process)
        server.stop()
        gone = time.monotonic()
        out, err = process.communicate(timeout=RETRY_SECONDS + 60)
        took = time.monotonic() - gone
        while family(process.mark):
            assert time.monotonic() < gone + RETRY_SECONDS + 60
            time.sleep(0.1)
    finally:
        kill_family(process.mark)
        server.start()
    assert process.returncode == 1
    errors = [line for line in err.splitlines() if "cannot be fetched" in line]
    assert 1 <= len(errors) <= 2, err  # one per rank
    assert all(re.match(rf"error: rank \d: {server.url}/\S+: .*tried for", line) for line in errors)
    assert took < RETRY_SECONDS + 30
    out = trainer.train("died", *settings, engine="ddp")
    assert "resuming at" in out
    assert same_bits(trainer.weights("died"), trainer.weights(from_disk))
