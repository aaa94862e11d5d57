"""A small simulated training: samples are trained on once, whatever the number of ranks does."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.support.sample_pages import build_shards, sample_lines
from benchmarks.support.simulation.object_store import ObjectStore, write_shards
from benchmarks.support.simulation.ranks import times_trained
from benchmarks.support.simulation.world import Plan, World
from vaetrain.artifacts import checkpoint

SHARDS, PAGES, LAST, BATCH = 12, 8, 5, 24
SAMPLES = (SHARDS - 1) * PAGES + LAST


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    build_shards(sample_lines()[:60], folder / "built")
    write_shards(folder / "pages", folder / "built", SHARDS, PAGES, LAST)
    return folder / "pages"


def test_changing_ranks_train_on_every_sample_once(pages, tmp_path):
    """As the benchmark, which also kills a rank, but without a heartbeat."""
    objects = ObjectStore(pages, tmp_path / "caches", 0.0, fail_every=1000)
    steps = {}
    with objects.connected():
        for ranks, stop in ((8, 1), (6, 3), (8, 4)):
            world = World(ranks, 2, objects, tmp_path / "run", BATCH, window_shards=6)
            steps |= world.run(Plan(stop, 1), None, 1.0).steps
    ids = np.concatenate([steps[number] for number in range(4)])
    trained = times_trained(checkpoint.load(checkpoint.list_checkpoints(tmp_path / "run")[-1]))
    assert np.array_equal(trained, np.bincount(ids, minlength=SAMPLES))
    assert np.array_equal(
        np.unique(trained, return_counts=True)[1], [2 * SAMPLES - 96, 96 - SAMPLES]
    )
    assert set(objects.traffic.fetched) == {f"node-{number:04}" for number in range(4)}
    assert sum(objects.traffic.requests.values()) >= SHARDS


def test_ranks_of_a_node_know_each_other(pages, tmp_path):
    """Each was a machine of its own, and fetched ahead only what it reads itself."""
    objects = ObjectStore(pages, tmp_path / "caches", 0.0, fail_every=1000)
    world = World(8, 2, objects, tmp_path / "run", BATCH, partitions=24)
    with objects.connected():
        rank = world.opened(3)
    assert rank.data.machine == range(2, 4)


@pytest.mark.slow
def test_a_fault_of_one_rank_ends_all(pages, tmp_path, monkeypatch):
    objects = ObjectStore(pages, tmp_path / "caches", 0.0, fail_every=1000)

    def broken(*arguments):
        raise KeyError("a fault")

    monkeypatch.setattr(checkpoint, "write_manifest", broken)
    with objects.connected(), pytest.raises(KeyError, match="a fault"):
        World(4, 2, objects, tmp_path / "run", BATCH, window_shards=6).run(Plan(1, 1), None, 1.0)
