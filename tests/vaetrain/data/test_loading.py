"""Pages of an experiment: splits, the shares of the ranks, and refused settings."""

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.build import build
from shards.building.options import BuildOptions
from shards.reading.selection import Selection
from tests.support.engines import FakeEngine
from tests.support.paths import SAMPLE
from vaetrain.data import loading
from vaetrain.data.batching import split_global_batch
from vaetrain.data.config import DataConfig
from vaetrain.data.loading import EVALUATION_BATCH, FIGURE_PAGES, PageReader, TrainingData
from vaetrain.settings import ConfigError

COUNT, STRIDE = 60, 16


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Return many shards of a few pages each."""
    folder = tmp_path_factory.mktemp("many") / "shards"
    build([SAMPLE], folder, BuildOptions(count=COUNT, shard_mb=0.01, workers=1))
    return folder


def a_config(shards: Path, **settings) -> DataConfig:
    small = {"width": 64, "max_height": 128, "workers": 0}
    return DataConfig(shards=str(shards), **small | settings)


def training_data(shards: Path, rank: int = 0, world_size: int = 1, **settings) -> TrainingData:
    config, engine = a_config(shards, **settings), FakeEngine(rank, world_size)
    return TrainingData(config, engine, STRIDE, seed=0, global_batch_size=8)


def ids_of(batches) -> list[int]:
    return [number for batch in batches if batch is not None for number in batch.ids.tolist()]


def test_splits_are_disjoint_and_complete(shards):
    reader = PageReader(shards, a_config(shards), FakeEngine(), STRIDE)
    train, val, everything = (
        set(ids_of(reader.pages(reader.select(split)))) for split in ("train", "val", "all")
    )
    assert train
    assert val
    assert not train & val
    assert train | val == everything == set(range(COUNT))


def templates_of(data: TrainingData, selection: Selection) -> set[str]:
    ids = selection.ids_at(np.arange(len(selection)))
    return {data.index.templates[place] for place in data.index.rows(ids)["template"]}


def test_validation_templates_are_not_trained_on(shards):
    data = training_data(shards)
    template = min(templates_of(data, data.train) - {""})
    data = training_data(shards, val_templates=[template])
    assert templates_of(data, data.val) == {template}
    assert template not in templates_of(data, data.train)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_evaluate_each_page_once_in_equally_many_batches(shards, world_size):
    shares = []
    for rank in range(world_size):
        reader = PageReader(shards, a_config(shards), FakeEngine(rank, world_size), STRIDE)
        shares.append(list(reader.pages(reader.select("all"))))
    assert len({len(share) for share in shares}) == 1
    assert sorted(ids_of(batch for share in shares for batch in share)) == list(range(COUNT))
    assert all(len(batch) <= EVALUATION_BATCH for share in shares for batch in share if batch)


@pytest.mark.parametrize(
    ("world_size", "micro", "partitions"),
    [(1, 2, 1), (2, 4, 1), (2, 2, 1), (4, 1, 1), (1, 2, 4), (2, 2, 4), (4, 1, 4), (4, 2, 2)],
)
def test_a_step_has_the_same_pages_on_any_number_of_ranks(shards, world_size, micro, partitions):
    one = training_data(shards, partitions=partitions)
    assert one.order.partitions == partitions
    whole = one.training_batches(split_global_batch(8, 8, 1), range(3, 5))
    expected = [sorted(ids_of([batch])) for batch in whole]
    batching = split_global_batch(8, micro, world_size)
    steps = [[], []]
    for rank in range(world_size):
        data = training_data(shards, rank=rank, world_size=world_size, partitions=partitions)
        batches = list(data.training_batches(batching, range(3, 5)))
        assert [len(batch) for batch in batches] == [micro] * 2 * batching.accumulation
        for step, ids in enumerate(steps):
            part = slice(step * batching.accumulation, (step + 1) * batching.accumulation)
            ids += ids_of(batches[part])
    assert [sorted(ids) for ids in steps] == expected


def test_figures_show_validation_pages_from_low_to_tall(shards):
    data = training_data(shards)
    batch = data.fixed_pages()
    assert len(batch) == min(FIGURE_PAGES, len(data.val))
    assert batch.heights.tolist() == sorted(batch.heights.tolist())
    assert set(batch.ids.tolist()) <= set(ids_of(data.pages(data.val)))
    assert torch.equal(batch.ids, data.fixed_pages().ids)


def test_summary_counts_the_pages(shards):
    data = training_data(shards)
    assert data.summary["train_pages"] + data.summary["val_pages"] == COUNT
    assert data.summary["fingerprint"] == data.index.header["table_sha256"]


def test_width_must_be_a_multiple_of_the_stride(shards):
    with pytest.raises(ConfigError, match=r"data\.width: 72 is not a multiple .* 64 and 80"):
        PageReader(shards, a_config(shards, width=72), FakeEngine(), STRIDE)


def test_shards_without_training_pages_are_refused(shards):
    data = training_data(shards)
    everything = list(templates_of(data, data.train) | templates_of(data, data.val))
    with pytest.raises(ConfigError, match="no pages to train on"):
        training_data(shards, val_templates=everything)


def test_cache_must_hold_the_shards_that_are_shuffled_together(shards):
    data = training_data(shards)
    data.config.cache_gb = 1e-6
    data.check_cache()  # local shards need no cache
    data.index = dataclasses.replace(data.index, cache=object())  # as if they were at an address
    with pytest.raises(ConfigError, match=r"data\.cache_gb: 1e-06 is less than .* of the shards"):
        data.check_cache()


def test_the_cache_must_hold_the_shards_of_this_machines_partitions_only(many):
    sizes = sorted((shard.bytes for shard in training_data(many).index.shards), reverse=True)
    one = training_data(many, partitions=4, window_shards=1)
    two = training_data(many, world_size=2, partitions=4, window_shards=1)
    needed = [order.shards_at_once(range(n)) for order, n in ((one.order, 4), (two.order, 2))]
    assert needed[1] < needed[0]
    for data, count in zip((one, two), needed, strict=True):
        data.index = dataclasses.replace(data.index, cache=object())
        data.config.cache_gb = sum(sizes[:count]) / 1e9
        data.check_cache()
        data.config.cache_gb = (sum(sizes[:count]) - 1000) / 1e9
        with pytest.raises(ConfigError, match=r"raise it, or lower data\.partitions"):
            data.check_cache()


def test_more_partitions_than_pages_are_refused(many):
    with pytest.raises(ConfigError, match=r"data\.partitions: 64 are more than the \d+ training"):
        TrainingData(
            a_config(many, partitions=64), FakeEngine(), STRIDE, seed=0, global_batch_size=64
        )


@pytest.mark.parametrize(
    ("settings", "machines", "per_machine", "line"),
    [
        ({}, 1, 8, None),
        ({"partitions": 4}, 1, 8, r"data\.partitions=4$"),
        ({}, 2, 4, r"warning: data\.partitions=1: a machine reads up to 2 times its share of "),
        ({"partitions": 8}, 2, 4, r"data\.partitions=8: a machine reads up to 1\.\d+ times its "),
        (
            {"partitions": 2},
            8,
            1,
            r"warning: data\.partitions=2: a machine reads up to [45](\.\d+)? ",
        ),
    ],
)
def test_what_a_machine_reads_is_reported(many, monkeypatch, settings, machines, per_machine, line):
    ranks = {"RANK": 0, "WORLD_SIZE": machines * per_machine, "LOCAL_RANK": 0}
    ranks |= {"LOCAL_WORLD_SIZE": per_machine, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in ranks.items():
        monkeypatch.setenv(name, str(value))
    data = training_data(many, world_size=machines * per_machine, **settings)
    assert data.machine == range(per_machine)
    found = data.partitions_line
    assert found is None if line is None else re.match(line, found)


@pytest.mark.parametrize(
    ("pages", "warning"),
    [
        (0, "warning: nothing to validate on in .*: there will be no metrics, posterior report"),
        (1, "warning: only one validation page in .*: there will be no posterior report"),
        (2, None),
    ],
)
def test_too_few_validation_pages_are_reported(shards, pages, warning):
    data = training_data(shards)
    data.val = data.val.thinned(2)
    data.val = dataclasses.replace(data.val, ids=data.val.ids[:pages])
    found = data.validation_warning
    assert found is None if warning is None else re.match(warning, found)


@pytest.mark.parametrize("store", ["boxes", "png"])
def test_batches_that_do_not_fit_into_memory_are_reported(shards, tmp_path, monkeypatch, store):
    if store == "png":
        shards = tmp_path / "png"
        build([SAMPLE], shards, BuildOptions(count=20, workers=1, store="png", png_width=64))
    data = training_data(shards, workers=2, prefetch=3)
    page = 64 * 128  # bytes of a picture
    if store == "boxes":
        page = sum(shard.bytes for shard in data.index.shards) / COUNT
    needed = 2 * (3 + 2) * 8 * page
    monkeypatch.setattr(loading, "free_memory", lambda: 2 * needed + 2)
    assert data.memory_warning(8) is None
    monkeypatch.setattr(loading, "free_memory", lambda: None)
    assert data.memory_warning(8) is None
    monkeypatch.setattr(loading, "free_memory", lambda: 2 * needed - 2)
    expected = (
        f"warning: reader processes keep up to {needed / 1e9:.3g} GB of batches ready (1 ranks"
    )
    assert data.memory_warning(8).startswith(expected)
    data.config = dataclasses.replace(data.config, workers=0)
    assert data.memory_warning(8) is None


def test_shards_are_fetched_ahead_for_the_steps_of_the_training_only(many):
    data, plans = training_data(many, window_shards=2), []
    data.collator.files.prefetch = lambda samples: plans.append(list(itertools.islice(samples, 99)))
    next(iter(data.training_batches(split_global_batch(8, 8, 1), range(1))))
    assert [len(plan) for plan in plans] == [2]
