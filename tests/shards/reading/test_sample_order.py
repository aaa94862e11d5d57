"""The order of samples: full steps, each sample once an epoch, similar heights."""

import numpy as np
import pytest

from shards.format.index import RECORD
from shards.reading.height_ladder import height_ladder
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection

SHARDS, PER_SHARD = 7, 30
SIZE = SHARDS * PER_SHARD


def a_selection(ids=None) -> Selection:
    table = np.zeros(SIZE, RECORD)
    draw = np.random.default_rng(3)
    table["width"] = 1280
    table["height"] = draw.integers(500, 8000, SIZE)
    ids = range(SIZE) if ids is None else ids
    starts = np.searchsorted(np.asarray(ids), np.arange(SHARDS + 1) * PER_SHARD)
    return Selection(table, ids, starts, width=128, max_height=512)


def an_order(selection=None, *, batch=16, seed=0, window=3) -> SampleOrder:
    return SampleOrder(
        selection or a_selection(),
        seed=seed,
        global_batch_size=batch,
        window_shards=window,
        ladder=height_ladder(512, 16),
    )


def stream(order: SampleOrder, steps: int) -> tuple[np.ndarray, np.ndarray]:
    ids, epochs = zip(*(order.step(step) for step in range(steps)), strict=True)
    return np.concatenate(ids), np.concatenate(epochs)


@pytest.mark.parametrize("batch", [1, 7, 16, 64, 209, 210, 211, 500])
def test_every_step_is_full_and_every_id_comes_once_per_epoch(batch):
    order = an_order(batch=batch)
    ids, epochs = stream(order, -(-3 * SIZE // batch))
    assert all(len(order.step(step)[0]) == batch for step in range(3))
    for epoch in range(3):
        assert sorted(ids[epochs == epoch]) == list(range(SIZE))


def test_an_epoch_has_every_sample_of_a_partial_selection():
    chosen = np.flatnonzero(np.arange(SIZE) % 3 != 0)
    ids, epochs = stream(an_order(a_selection(chosen)), 20)
    assert sorted(ids[epochs == 0]) == chosen.tolist()


def test_a_step_is_a_pure_function_of_its_number():
    forwards, backwards = an_order(), an_order()
    steps = list(range(40))
    there = {step: forwards.step(step)[0].tolist() for step in steps}
    back = {step: backwards.step(step)[0].tolist() for step in reversed(steps)}
    assert there == back


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 15}])
def test_the_order_depends_on_seed_and_batch(change):
    assert stream(an_order(), 10)[0].tolist() != stream(an_order(**change), 10)[0].tolist()


def test_epochs_differ():
    ids, epochs = stream(an_order(), 2 * SIZE // 16 + 1)
    assert ids[epochs == 0].tolist() != ids[epochs == 1][:SIZE].tolist()


def test_an_epoch_needs_only_a_window_of_shards_at_a_time():
    order = an_order(batch=10, window=2)
    shards = [order.step(step)[0] // PER_SHARD for step in range(SIZE // 10)]
    # 60 samples a window, so 6 steps; a shard is never needed again after its window.
    for first in range(0, len(shards), 6):
        here = set(np.concatenate(shards[first : first + 6]))
        later = set(np.concatenate(shards[first + 6 :])) if shards[first + 6 :] else set()
        assert len(here) <= 2
        assert not here & later


def test_batches_have_similar_heights():
    selection = a_selection()
    order = an_order(selection, window=7)
    ladder = height_ladder(512, 16)

    def waste(batches):
        heights = [selection.heights_at(batch) for batch in batches]
        padded = [ladder[np.searchsorted(ladder, h.max())] * len(h) for h in heights]
        return 1 - sum(h.sum() for h in heights) / sum(padded)

    bucketed = waste([order.step(step)[0] for step in range(13)])
    shuffled = waste(np.random.default_rng(0).permutation(SIZE)[:208].reshape(13, 16))
    assert bucketed < 0.1 < shuffled


def test_a_step_is_in_order_of_height():
    selection = a_selection()
    for step in range(20):
        heights = selection.heights_at(an_order(selection).step(step)[0])
        assert (np.diff(heights) >= 0).all()


def test_short_and_tall_batches_are_mixed_over_an_epoch():
    selection = a_selection()
    order = an_order(selection, window=7)
    first_rows = [selection.heights_at(order.step(step)[0])[0] for step in range(13)]
    assert first_rows != sorted(first_rows)
    assert first_rows != sorted(first_rows, reverse=True)


def test_a_step_of_a_huge_index_reads_few_rows():
    """10^8 samples, most of whose table does not exist: only a window's rows may be touched."""

    class Table:
        touched = 0

        def __getitem__(self, rows):
            Table.touched += len(rows)
            records = np.zeros(len(rows), RECORD)
            records["width"], records["height"] = 1280, 800 + np.asarray(rows) % 3000
            return records

    size, per_shard = 10**8, 1000
    starts = np.arange(0, size + 1, per_shard)
    order = an_order(Selection(Table(), range(size), starts, 128, 512), batch=256, window=8)
    ids, _ = order.step(200_000)
    assert len(set(ids.tolist())) == 256
    assert Table.touched < 20 * 8 * per_shard
