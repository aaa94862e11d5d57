"""Thinned selections: spread over all samples and few shards."""

import numpy as np
import pytest

from shards.format.index import RECORD
from shards.reading.selection import Selection

PER_SHARD = 30


def test_thinning_keeps_shards_and_ids_together():
    starts = np.arange(8) * PER_SHARD
    size = int(starts[-1])
    thin = Selection(np.zeros(size, RECORD), range(size), starts, 128, 512).thinned(50)
    assert len(thin) == 50
    ids = thin.ids_at(np.arange(50))
    for shard, (start, stop) in enumerate(zip(thin.starts[:-1], thin.starts[1:], strict=True)):
        assert (ids[start:stop] // PER_SHARD == shard).all()


@pytest.mark.parametrize(("shards", "limit"), [(7, 50), (64, 200), (64, 1900), (63, 1)])
def test_thinning_of_few_shards_spreads_over_all_samples(shards, limit):
    size = shards * PER_SHARD
    starts = np.arange(0, size + 1, PER_SHARD)
    thin = Selection(np.zeros(size, RECORD), range(size), starts, 128, 512).thinned(limit)
    assert thin.ids.tolist() == np.linspace(0, size - 1, limit).round().tolist()


@pytest.mark.parametrize("limit", [50, 4000, 20_000])
def test_thinning_opens_few_of_many_shards(limit):
    draw = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(draw.integers(50, 150, 1000))])
    selection = Selection(np.zeros(starts[-1], RECORD), range(starts[-1]), starts, 128, 512)
    thin = selection.thinned(limit)
    assert 0.9 * limit <= len(set(thin.ids.tolist())) == len(thin) <= limit
    opened = np.unique(np.searchsorted(starts, thin.ids, side="right") - 1)
    assert len(opened) <= max(64, 1.02 * limit / 100)
    assert opened[0] == 0
    assert opened[-1] == 999
    assert np.diff(opened).max() <= 3 * 1000 / len(opened)
    assert len(thin.starts) == len(opened) + 1


@pytest.mark.parametrize(("first", "stop"), [(0, 45), (45, 90), (31, 32), (30, 60)])
def test_a_part_has_the_samples_at_its_positions_cut_by_shard(first, stop):
    ids = np.arange(3 * PER_SHARD) * 2
    starts = np.arange(4) * PER_SHARD
    part = Selection(np.zeros(200, RECORD), ids, starts, 128, 512).part(first, stop)
    assert part.ids.tolist() == ids[first:stop].tolist()
    assert part.starts[0] == 0
    assert part.starts[-1] == len(part) == stop - first
    for start, end in zip(part.starts[:-1], part.starts[1:], strict=True):
        assert len({(first + place) // PER_SHARD for place in range(start, end)}) == 1
