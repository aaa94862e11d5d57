"""Training from a server is training from the disk, whatever the server does."""

import re
import time

import pytest

from launch.soak import family, kill_family
from shards.index import Index
from tests.distributed.test_resume import same_bits
from tests.page_server import PageServer, served_by_s3

SETTINGS = (
    "train.max_images=480",
    "train.checkpoint_every_images=24",
    "augment.policy=strong",
    "data.window_shards=1",
    "data.prefetch=1",
)
RETRY_SECONDS = 4


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
    """Room for two shards, so that shards are fetched all the time."""
    room = 2 * max(shard.bytes for shard in Index.open(shards).shards)
    return (
        *SETTINGS,
        f"data.shards={address}",
        f"data.cache_dir={folder}",
        f"data.cache_gb={room / 1e9}",
        f"data.retry_seconds={RETRY_SECONDS}",
    )


@pytest.mark.slow
def test_failing_requests_change_no_bit(trainer, from_disk, server, tmp_path):
    server.every, server.fault = 20, "truncated"
    trainer.train("failing", *remote_settings(server.url, server.folder, tmp_path), engine="ddp")
    assert len(server.requests) >= 2 * server.every
    assert same_bits(trainer.weights("failing"), trainer.weights(from_disk))


@pytest.mark.slow
def test_from_s3_it_is_the_same_training(trainer, from_disk, shards, tmp_path):
    with served_by_s3(shards) as (address, _):
        trainer.train("s3", *remote_settings(address, shards, tmp_path), engine="ddp")
    assert same_bits(trainer.weights("s3"), trainer.weights(from_disk))


@pytest.mark.slow
def test_a_server_that_dies_ends_the_run_which_goes_on_later(trainer, from_disk, server, tmp_path):
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
    told = [line for line in err.splitlines() if "cannot be fetched" in line]
    assert 1 <= len(told) <= 2, err  # a rank a line
    assert all(re.match(rf"error: rank \d: {server.url}/\S+: .*tried for", line) for line in told)
    assert took < RETRY_SECONDS + 30
    out = trainer.train("died", *settings, engine="ddp")
    assert "resuming at" in out
    assert same_bits(trainer.weights("died"), trainer.weights(from_disk))
