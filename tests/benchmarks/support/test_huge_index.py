"""Large indexes made from copies of a few samples: correct samples, small files, little memory."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.support import huge_index
from benchmarks.support.huge_index import MICRO_BATCH, ROWS, WIDTH
from benchmarks.support.sample_pages import build_shards, sample_lines
from shards.format.index import RECORD
from shards.open import open_index
from shards.reading.collator import Collator
from shards.reading.datasets import TrainingDataset
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import build_order
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import select
from shards.reading.shard_files import ShardFiles

RANKS = 64


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_shards(sample_lines()[::9], tmp_path_factory.mktemp("built") / "shards")


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for samples in (100_000, 1_000_000):
        huge_index.write_index(folder / str(samples), built, samples)
    return folder


def readers(folder) -> tuple[SampleOrder, list[TrainingDataset]]:
    index = open_index(folder)
    selection = select(index, "train", width=WIDTH, max_height=ROWS)
    ladder = height_ladder(ROWS, 16)
    order = build_order(
        selection, seed=0, global_batch_size=RANKS * MICRO_BATCH, window_shards=8, ladder=ladder
    )
    collator = Collator(ShardFiles(index), width=WIDTH, max_height=ROWS, ladder=ladder, seed=0)
    ranks = [
        TrainingDataset(order, collator, rank=rank, world_size=RANKS, micro_batch_size=MICRO_BATCH)
        for rank in range(RANKS)
    ]
    return order, ranks


def test_every_sample_is_a_page_of_the_real_shard(built, made):
    small, large = (ShardFiles(open_index(folder)) for folder in (built, made / "100000"))
    pages, per_shard = len(small.index), large.index.shards[0].samples
    assert len(large.index) == 100_000
    assert per_shard % pages == 0
    assert np.diff(large.index.table["offset"][:per_shard].astype(int)).min() > 0
    for number in (0, pages, per_shard - 1, per_shard, 99_999):
        assert large.members(number) == small.members(number % per_shard % pages)


def test_all_ranks_together_read_one_step(made):
    order, ranks = readers(made / "100000")
    batches = [reader[3] for reader in ranks]
    ids = np.concatenate([batch.ids.numpy() for batch in batches])
    assert sorted(ids) == sorted(order.step(3)[0])
    assert len(set(ids)) == RANKS * MICRO_BATCH
    assert all(batch.images().max() > 0 for batch in batches[:3])


def test_index_takes_about_eighteen_bytes_a_sample(made):
    for samples in (100_000, 1_000_000):
        size = huge_index.disk_bytes(made / str(samples))
        assert samples * RECORD.itemsize < size < 1.02 * samples * RECORD.itemsize + 20_000


def test_memory_of_the_first_batch_hardly_grows_with_samples(made):
    few, many = (huge_index.peak_memory(made / n, RANKS) for n in ("100000", "1000000"))
    assert (many - few) / 900_000 < 1.5  # bytes; one number for each sample would take 8


def test_parts_of_the_start_are_timed_in_order(made):
    seconds = huge_index.time_first_batch(made / "100000", RANKS, RANKS - 1, 1.5)
    assert 0 < seconds["open"] < seconds["ids"] < seconds["batch"]
