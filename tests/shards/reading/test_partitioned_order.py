"""The partitioned order: each sample once per epoch, and few shards per rank, on any world size."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.format.index import RECORD
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import (
    WORLDS,
    PartitionedOrder,
    build_order,
    most_read,
    partition_count,
)
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection

LADDER = height_ladder(512, 16)
MANY = 1536  # partitions and pages of a step; as many ranks may each have some of them


def a_selection(shards: int, per_shard: int, jitter: int = 0) -> Selection:
    draw = np.random.default_rng(3)
    sizes = per_shard + draw.integers(-jitter, jitter + 1, shards)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    table = np.zeros(starts[-1], RECORD)
    table["width"] = 1280
    table["height"] = draw.integers(500, 8000, len(table))
    return Selection(table, range(len(table)), starts, width=128, max_height=512)


def an_order(
    selection: Selection, batch: int, partitions: int | None = None, window: int = 8
) -> SampleOrder:
    return build_order(
        selection,
        partitions=partitions,
        seed=0,
        global_batch_size=batch,
        window_shards=window,
        ladder=LADDER,
    )


def of_ranks(order: SampleOrder, step: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Join the samples of all teams of a step, each of which is asked once."""
    teams = [order.team(rank, ranks) for rank in range(ranks)]
    found = [order.step(step, team.partitions) for team in teams if team.place == 0]
    assert len(found) * teams[0].ranks == ranks
    ids, epochs = zip(*found, strict=True)
    return np.concatenate(ids), np.concatenate(epochs)


def check_epochs(order: SampleOrder, worlds: tuple[int, ...], epochs: int) -> None:
    """Assert that every id comes once per epoch while the world size changes at every step."""
    size, batch = len(order.selection), order.global_batch_size
    steps = -(-epochs * size // batch)
    found = [of_ranks(order, step, worlds[step % len(worlds)]) for step in range(steps)]
    assert all(len(ids) == batch for ids, _ in found)
    ids, numbers = (np.concatenate(each) for each in zip(*found, strict=True))
    for epoch in range(epochs):
        assert sorted(ids[numbers == epoch]) == list(range(size))


@pytest.fixture(scope="module")
def large() -> SampleOrder:
    """Return an order whose partitions divide evenly over 512 ranks, and over 384."""
    return an_order(a_selection(4096, 2, jitter=1), MANY, MANY)


@pytest.mark.parametrize(
    ("shards", "samples", "batch", "partitions"),
    [
        (15, 10**6, 512, 1),  # fewer than eight shards for each of two machines
        (64, 500, 512, 1),
        (64, 64 * 700, 16, 4),
        (64, 64 * 700, 512, 32),
        (64, 5000, 512, 4),
        (4096, 10**7, 7, 1),
        (1000, 10**7, 12_288, 384),  # 96 machines with eight shards each
        (12_288, 10**8, 12_288, 1536),
        (20_000, 10**8, 4096, 1024),
        (10**6, 10**10, 16_384, 1024),
    ],
)
def test_number_of_partitions(shards, samples, batch, partitions):
    assert partition_count(shards, samples, batch) == partitions


@given(shards=st.integers(1, 10**5), pages=st.integers(1, 10**4), batch=st.integers(1, 20_000))
@settings(max_examples=40)
def test_partitions_have_equal_parts_of_a_step_and_pairs_of_samples(shards, pages, batch):
    count = partition_count(shards, shards * pages, batch)
    assert batch % count == 0
    assert (batch // count) % 2 == batch % 2
    assert count == 1 or (shards >= 2 * count and shards * pages >= 1024 * count)


@pytest.mark.parametrize("world_size", WORLDS)
def test_partitions_divide_evenly_over_common_worlds(world_size):
    assert partition_count(8192, 8192 * 10_000, 12_288) % world_size == 0


def test_small_data_keep_the_first_order():
    selection = a_selection(15, 2000)
    order = an_order(selection, 64)
    first = SampleOrder(selection, seed=0, global_batch_size=64, window_shards=8, ladder=LADDER)
    assert type(order) is SampleOrder
    assert order.VERSION == 1
    for step in (0, 7, 468, 469):
        for part in (None, order.team(5, 8).partitions):
            for found, expected in zip(order.step(step, part), first.step(step), strict=True):
                assert found.tolist() == expected.tolist()


def test_the_first_order_is_that_of_the_version_without_partitions():
    order = an_order(a_selection(7, 30), 8, window=3)
    assert order.step(0)[0].tolist() == [104, 72, 132, 62, 111, 76, 73, 126]
    assert order.step(26)[0].tolist() == [112, 30, 43, 176, 100, 136, 143, 174]
    assert order.step(60)[0].tolist() == [119, 195, 69, 104, 79, 86, 72, 62]


@pytest.mark.parametrize(("batch", "partitions"), [(8, 8), (24, 8), (48, 24), (504, 63), (9, 3)])
def test_every_id_comes_once_per_epoch_while_the_world_size_changes(batch, partitions):
    check_epochs(an_order(a_selection(66, 9, jitter=3), batch, partitions), (8, 4, 1, 3, 12), 2)


@given(data=st.data())
@settings(max_examples=15)
def test_every_id_comes_once_per_epoch_of_any_data(data):
    draw = data.draw
    partitions = draw(st.integers(2, 7))
    selection = a_selection(draw(st.integers(1, 12)), draw(st.integers(8, 20)), jitter=5)
    batch = partitions * draw(st.integers(1, 30))
    order = an_order(selection, batch, partitions, draw(st.integers(1, 40)))
    check_epochs(order, (1, draw(st.integers(1, 24))), 2)


@pytest.mark.slow
def test_a_step_has_the_same_samples_while_ranks_change_from_512_to_384(large):
    """Every sample is used once, and each step has the samples that one rank would use."""
    size, worlds = len(large.selection), (512, 384, 512, 8, 3, 2, 1)
    found = []
    for step, world_size in enumerate(worlds):
        pairs = np.stack(of_ranks(large, step, world_size), axis=1)
        assert sorted(pairs.tolist()) == sorted(np.stack(large.step(step), axis=1).tolist())
        found.append(pairs)
    ids, epochs = np.concatenate(found).T
    assert MANY < size < len(ids)
    assert sorted(ids[epochs == 0]) == list(range(size))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 16])
def test_pairs_of_samples_are_the_same_on_any_number_of_ranks(world_size):
    """Mixup mixes neighbours."""
    order = an_order(a_selection(66, 110), 48, 8)

    one, several = (of_ranks(order, 30, size)[0].reshape(-1, 2) for size in (1, world_size))
    assert sorted(several.tolist()) == sorted(one.tolist())


def test_pairs_are_in_order_of_height():
    selection = a_selection(66, 110)
    order = an_order(selection, 48, 8)
    for step in range(5):
        heights = selection.heights_at(order.step(step)[0]).reshape(-1, 2)
        assert (np.diff(heights[:, 1]) >= 0).all()
        assert (heights[:, 1] >= heights[:, 0]).all()


def test_a_step_is_a_pure_function_of_its_number():
    selection, steps = a_selection(66, 110), range(0, 400, 7)
    forwards, backwards = an_order(selection, 48, 8), an_order(selection, 48, 8)
    there = {step: forwards.step(step)[0].tolist() for step in steps}
    assert there == {step: backwards.step(step)[0].tolist() for step in reversed(steps)}


@pytest.fixture(scope="module")
def machines() -> SampleOrder:
    """Return an order of eight shards, of 70 to 130 pages, for each of 512 machines."""
    return an_order(a_selection(4096, 100, jitter=30), MANY, MANY)


@pytest.mark.parametrize("nodes", [2, 3, 8, 64, 384, 512])
def test_a_machine_reads_parts_of_two_shards_more_than_its_share(machines, nodes):
    sizes = np.diff(machines.selection.starts)
    read = most_read(machines, sizes, nodes, 1)
    # A partition may have one page more than another one.
    assert 1 <= read <= 1 + (2 * sizes.max() + MANY / nodes) * nodes / sizes.sum()
    assert read <= 1.2 or nodes > 64
    assert most_read(machines, sizes, 8 * nodes, 8) == read or 8 * nodes > 512


def test_machines_of_several_ranks_use_neighbouring_partitions(machines):
    for machine in range(64):
        ranks = range(8 * machine, 8 * machine + 8)
        partitions = machines.partitions_of(ranks, 512)
        assert partitions == range(24 * machine, 24 * machine + 24)
        assert len(machines.shards_of_epoch(3, partitions)) <= 1.2 * 4096 / 64
    # 1024 ranks share 512 times 3 partitions: teams of two ranks.
    assert machines.partitions_of(range(8, 16), 1024) == range(12, 24)


def test_shards_are_fetched_before_their_samples_are_used():
    """Until a window ends, its samples are in the shards listed for it and the windows before."""
    selection = a_selection(64, 40)
    order, partitions = an_order(selection, 32, 8), range(2, 5)
    number_of = {first: number for number, first in enumerate(selection.starts[:-1].tolist())}
    of_epoch = order.shards_of_epoch(0, partitions).tolist()
    listed = [
        number_of[first]
        for first in itertools.islice(order.shards_from(0, 0, partitions), len(of_epoch) + 1)
    ]
    assert sorted(listed[:-1]) == sorted(of_epoch)  # each once
    assert listed[-1] in order.shards_of_epoch(1, partitions)
    at_once = order.shards_at_once(partitions)
    assert at_once < len(of_epoch)
    windows: dict[int, set[int]] = {}
    for step in range(len(selection) // 32):
        ids, _ = order.step(step, partitions)
        windows.setdefault(order.window(step)[1], set()).update(ids // 40)
    for window, used in windows.items():
        assert len(used) <= at_once
        rest = order.shards_from(0, window, partitions)
        assert used <= {number_of[first] for first in itertools.islice(rest, at_once)}
        # To a training that ends after the window's first step, only those until here are listed.
        stop = 1 + next(step for step in range(len(selection)) if order.window(step)[1] == window)
        found = itertools.islice(order.shards_from(0, 0, partitions, stop), 1000)
        until = [number_of[first] for first in found]
        needed = set.union(*(windows[number] for number in range(window + 1)))
        assert needed <= set(until)
        assert until == listed[: len(until)]
        assert len(until) <= len(needed) + 2 * len(partitions)
    assert len(windows) == 8


def test_ranks_of_a_step_have_equal_work_and_little_padding():
    selection = a_selection(64, 2000)
    order, used, padded, spread = an_order(selection, 128, 16), 0, 0, []
    for step in range(100, 160):
        rows = []
        for rank in range(8):
            heights = selection.heights_at(order.step(step, order.team(rank, 8).partitions)[0])
            rows.append(len(heights) * LADDER[np.searchsorted(LADDER, heights.max())])
            used += heights.sum()
        padded += sum(rows)
        spread.append(max(rows) / np.mean(rows) - 1)
    assert 1 - used / padded < 0.1
    assert np.mean(spread) < 0.1


def test_few_windows_are_kept_in_memory():
    order, kept = an_order(a_selection(64, 40), 32, 8), []
    for step in range(200):
        order.step(step)
        kept.append(order._rows_of_window.cache_info().currsize)
    assert max(kept) <= 2


def test_the_order_is_unchanged_by_pickling():
    order = an_order(a_selection(64, 11), 16, 8)
    copy = pickle.loads(pickle.dumps(order))
    assert isinstance(copy, PartitionedOrder)
    assert copy.step(40)[0].tolist() == order.step(40)[0].tolist()


def test_partitions_that_do_not_divide_a_step_are_refused():
    with pytest.raises(ValueError, match="3 partitions do not divide 16"):
        an_order(a_selection(64, 11), 16, 3)
