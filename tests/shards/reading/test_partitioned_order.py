"""The partitioned order: each sample once per epoch, and few shards per rank, on any world size."""

import pickle

import numpy as np
import pytest

from shards.format.index import RECORD
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import PartitionedOrder, partition_count
from shards.reading.selection import Selection

LADDER = height_ladder(512, 16)


def a_selection(shards: int, per_shard: int, jitter: int = 0) -> Selection:
    draw = np.random.default_rng(3)
    sizes = per_shard + draw.integers(-jitter, jitter + 1, shards)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    table = np.zeros(starts[-1], RECORD)
    table["width"] = 1280
    table["height"] = draw.integers(500, 8000, len(table))
    return Selection(table, range(len(table)), starts, width=128, max_height=512)


def an_order(selection: Selection, batch: int, window: int = 8) -> PartitionedOrder:
    return PartitionedOrder(
        selection, seed=0, global_batch_size=batch, window_shards=window, ladder=LADDER
    )


def of_ranks(order: PartitionedOrder, step: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Join the samples of all teams of a step."""
    first = [rank for rank in range(ranks) if order.team(rank, ranks)[1] == 0]
    found = [order.team_step(step, rank, ranks) for rank in first]
    ids, epochs = zip(*found, strict=True)
    return np.concatenate(ids), np.concatenate(epochs)


@pytest.mark.parametrize(
    ("shards", "batch", "partitions"),
    [(7, 16, 1), (64, 16, 8), (64, 7, 7), (12_288, 12_288, 1536), (10**6, 16_384, 1024)],
)
def test_number_of_partitions(shards, batch, partitions):
    assert partition_count(shards, batch) == partitions


@pytest.mark.parametrize("batch", [8, 24, 48, 504])
@pytest.mark.parametrize("worlds", [(1,), (8, 4, 8, 3, 12)])
def test_every_id_comes_once_per_epoch_while_the_world_size_changes(batch, worlds):
    selection = a_selection(66, 11, jitter=3)
    order, size = an_order(selection, batch), len(selection)
    found = [
        of_ranks(order, step, worlds[step % len(worlds)]) for step in range(-(-3 * size // batch))
    ]
    assert all(len(ids) == batch for ids, _ in found)
    ids, epochs = (np.concatenate(each) for each in zip(*found, strict=True))
    for epoch in range(3):
        assert sorted(ids[epochs == epoch]) == list(range(size))


def test_a_step_has_the_same_samples_on_any_number_of_ranks():
    order = an_order(a_selection(66, 11, jitter=3), 24)
    for step in (0, 13, 29, 30, 31, 75):
        expected = sorted(zip(*map(np.ndarray.tolist, order.step(step)), strict=True))
        for ranks in (1, 2, 3, 6, 8, 24):
            ids, epochs = of_ranks(order, step, ranks)
            assert sorted(zip(ids.tolist(), epochs.tolist(), strict=True)) == expected


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_a_node_reads_its_share_of_the_shards(nodes):
    selection = a_selection(64, 40)
    order = an_order(selection, 32)
    for rank in range(nodes):
        steps = (order.team_step(step, rank, nodes) for step in range(64 * 40 // 32))
        used = {shard for ids, _ in steps for shard in (ids // 40).tolist()}
        assert len(used) <= 1.2 * 64 / nodes
        parts = order.team(rank, nodes)[0]
        planned = {s for w in range(order.windows(0)) for s in order.shards_of(0, w, parts)}
        assert used <= planned


def test_ranks_of_a_step_have_equal_work_and_little_padding():
    selection = a_selection(64, 2000)
    order, used, padded, spread = an_order(selection, 128), 0, 0, []
    for step in range(100, 160):
        rows = []
        for rank in range(8):
            heights = selection.heights_at(order.team_step(step, rank, 8)[0])
            rows.append(len(heights) * LADDER[np.searchsorted(LADDER, heights.max())])
            used += heights.sum()
        padded += sum(rows)
        spread.append(max(rows) / np.mean(rows) - 1)
    assert 1 - used / padded < 0.1
    assert np.mean(spread) < 0.1


def test_the_order_is_unchanged_by_pickling():
    order = an_order(a_selection(64, 11), 16)
    copy = pickle.loads(pickle.dumps(order))
    assert copy.step(40)[0].tolist() == order.step(40)[0].tolist()
