"""Batches from disk: the same pages for any ranks, reader processes and micro batches."""

import itertools
import shutil
import subprocess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.atomic_files import sha256_of
from shards.build import build
from shards.building.options import BuildOptions
from shards.errors import DamagedShards
from shards.format.index import Index
from shards.open import open_index
from shards.reading import checked_files
from shards.reading.checked_files import CheckedFiles
from shards.reading.collator import Collator
from shards.reading.datasets import EvaluationDataset, TrainingDataset
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import build_order
from shards.reading.reader_processes import read_batches
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import select
from shards.reading.shard_files import ShardFiles
from tests.support.paths import REPO, SAMPLE

WIDTH, MAX_HEIGHT, STRIDE, GLOBAL = 64, 128, 16, 8
LADDER = height_ladder(MAX_HEIGHT, STRIDE)
STEPS = 20


def built(folder: Path, **options) -> Index:
    build([SAMPLE], folder, BuildOptions(count=60, workers=1, shard_mb=0.05, **options))
    return open_index(folder)


@pytest.fixture(scope="module")
def index(shards) -> Index:
    return open_index(shards)


def a_collator(index: Index) -> Collator:
    return Collator(ShardFiles(index), width=WIDTH, max_height=MAX_HEIGHT, ladder=LADDER, seed=0)


def an_order(index: Index, partitions: int = 1) -> SampleOrder:
    chosen = select(index, "train", width=WIDTH, max_height=MAX_HEIGHT)
    return build_order(
        chosen,
        partitions=partitions,
        seed=0,
        global_batch_size=GLOBAL,
        window_shards=2,
        ladder=LADDER,
    )


def training_batches(
    index, *, rank=0, ranks=1, micro=GLOBAL, workers=0, steps=range(STEPS), partitions=1
):
    reader = TrainingDataset(
        an_order(index, partitions),
        a_collator(index),
        rank=rank,
        world_size=ranks,
        micro_batch_size=micro,
    )
    accumulation = reader.accumulation
    numbers = range(steps.start * accumulation, steps.stop * accumulation)
    return accumulation, list(read_batches(reader, numbers, workers=workers, prefetch=2))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("micro", [1, 2])
def test_every_step_has_the_same_pages_for_any_ranks_and_workers(index, ranks, workers, micro):
    order = an_order(index)
    expected = [sorted(order.step(step)[0].tolist()) for step in range(STEPS)]
    found: list[list[int]] = [[] for _ in range(STEPS)]
    for rank in range(ranks):
        accumulation, batches = training_batches(
            index, rank=rank, ranks=ranks, micro=micro, workers=workers
        )
        assert len(batches) == STEPS * accumulation
        for number, batch in enumerate(batches):
            assert len(batch) == micro
            found[number // accumulation] += batch.ids.tolist()
    assert [sorted(ids) for ids in found] == expected


@pytest.mark.parametrize(("partitions", "ranks"), [(4, 2), (4, 4), (2, 4), (4, 1)])
@pytest.mark.parametrize("workers", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_every_step_has_the_same_pages_for_any_ranks_in_partitions(
    index, partitions, ranks, workers
):
    order, micro = an_order(index, partitions), 2
    found: list[list[int]] = [[] for _ in range(STEPS)]
    for rank in range(ranks):
        options = {"rank": rank, "ranks": ranks, "micro": micro, "workers": workers}
        accumulation, batches = training_batches(index, partitions=partitions, **options)
        for number, batch in enumerate(batches):
            found[number // accumulation] += batch.ids.tolist()
    for step, ids in enumerate(found):
        assert sorted(ids) == sorted(order.step(step)[0].tolist())


def test_nothing_is_fetched_ahead_that_only_later_steps_would_use(index):
    """A run ended with shards of another epoch in its cache, half as many as it had read."""
    order, plans = an_order(index), []
    for stop in range(1, len(order.selection) // GLOBAL + 1):
        collator = a_collator(index)
        collator.files.prefetch = lambda samples: plans.append(list(itertools.islice(samples, 99)))
        options = {"rank": 0, "world_size": 1, "micro_batch_size": GLOBAL}
        TrainingDataset(order, collator, stop=stop, **options)[0]
    windows = [order.window(stop)[1] for stop in range(len(plans))]
    assert len(set(windows)) == 2
    shards_per_window = 2
    assert [len(plan) for plan in plans] == [shards_per_window * (1 + at) for at in windows]
    of_epoch = order.shards_of_epoch(0, range(1)).tolist()
    assert index.shards_of(np.array(plans[-1])).tolist() == of_epoch


@pytest.mark.parametrize(("machine", "partitions"), [(None, range(2, 4)), (range(2), range(4))])
def test_a_rank_opens_shards_of_its_partitions_and_fetches_those_of_its_machine(
    index, machine, partitions
):
    order, collator, plans = an_order(index, 4), a_collator(index), []
    collator.files.prefetch = lambda samples: plans.append(list(itertools.islice(samples, 100)))
    reader = TrainingDataset(
        order, collator, rank=1, world_size=2, micro_batch_size=2, machine=machine
    )
    steps = len(order.selection) // GLOBAL
    for number in range(steps * reader.accumulation):
        reader[number]
    opened = set(collator.files._open)
    assert opened <= set(order.shards_of_epoch(0, range(2, 4)).tolist())
    assert len(opened) < len(order.selection.starts) - 1
    epoch = order.shards_of_epoch(0, partitions)
    planned = index.shards_of(np.array(plans[0][: len(epoch)]))
    assert sorted(planned) == sorted(epoch)
    assert len(plans) == 1 + order.window(steps - 1)[1]


def test_an_epoch_has_every_page_once(index):
    _, batches = training_batches(index)
    ids = torch.cat([batch.ids for batch in batches])
    epochs = torch.cat([batch.epochs for batch in batches])
    assert sorted(ids[epochs == 0].tolist()) == list(index.ids("train"))


def test_starting_at_a_later_step_gives_the_same_batches(index):
    _, whole = training_batches(index)
    _, rest = training_batches(index, steps=range(7, STEPS))
    for batch, expected in zip(rest, whole[7:], strict=True):
        assert torch.equal(batch.ids, expected.ids)
        assert torch.equal(batch.images(), expected.images())


def test_a_page_is_drawn_identically_in_any_batch(index):
    _, alone = training_batches(index, micro=1, steps=range(3))
    _, together = training_batches(index, steps=range(3))
    alone_images = {}
    for batch in alone:
        height = int(batch.heights[0])
        alone_images[int(batch.ids[0]), int(batch.epochs[0])] = batch.images()[0, :, :height]
    for batch in together:
        images = batch.images()
        for number, key in enumerate(zip(batch.ids.tolist(), batch.epochs.tolist(), strict=True)):
            height = int(batch.heights[number])
            assert torch.equal(images[number, :, :height], alone_images[key])
            assert (images[number, :, height:] == 0).all()


def test_windows_of_tall_pages_differ_by_epoch_and_lie_on_the_page(index):
    collator = a_collator(index)
    heights = index.table["height"].astype(int) * WIDTH // index.table["width"]
    tall = np.flatnonzero(heights > 2 * MAX_HEIGHT)[:5]
    tops = []
    for epoch in range(8):
        batch = collator.batch(tall, np.full_like(tall, epoch), training=True)
        assert (batch.heights == MAX_HEIGHT).all()
        assert (batch.tops >= 0).all()
        assert (batch.tops.numpy() + MAX_HEIGHT <= heights[tall] + 1).all()
        tops.append(batch.tops)
    assert len({tuple(top.tolist()) for top in tops}) == 8
    assert (collator.batch(tall, np.zeros_like(tall), training=False).tops == 0).all()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_evaluation_has_every_page_once_on_any_number_of_ranks(index, ranks):
    chosen = select(index, "all", width=WIDTH, max_height=MAX_HEIGHT)
    seen, lengths = [], set()
    for rank in range(ranks):
        reader = EvaluationDataset(
            chosen, a_collator(index), rank=rank, world_size=ranks, batch_size=7
        )
        batches = list(read_batches(reader, range(len(reader)), workers=0, prefetch=2))
        lengths.add(len(batches))
        seen += [number for batch in batches if batch for number in batch.ids.tolist()]
    assert sorted(seen) == list(index.ids("all"))
    assert len(lengths) == 1


def test_val_templates_are_the_val_split(index):
    named = index.templates[1:3]
    sides = {
        split: select(
            index, split, width=WIDTH, max_height=MAX_HEIGHT, val_templates=named
        ).ids.tolist()
        for split in ("train", "val")
    }
    assert sorted(sides["train"] + sides["val"]) == list(index.ids("all"))
    assert {index.templates[n] for n in index.table["template"][sides["val"]]} == set(named)
    unknown = select(index, "val", width=WIDTH, max_height=MAX_HEIGHT, val_templates=["nobody"])
    assert unknown.ids == index.ids("val")


def test_stored_pictures_equal_the_drawn_boxes(index, tmp_path):
    pictures = built(tmp_path / "png", store="png", png_width=WIDTH)
    ids = np.arange(20)
    for number in ids:
        boxes, picture = (i.table[number] for i in (index, pictures))
        assert (boxes["width"], boxes["height"]) == (picture["width"], picture["height"])
    drawn, stored = (
        a_collator(i).batch(ids, np.zeros_like(ids), training=False) for i in (index, pictures)
    )
    torch.testing.assert_close(stored.images(), drawn.images(), rtol=0, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("store", ["boxes", "png"])
def test_a_batch_is_unchanged_by_pickling(tmp_path, store):
    index = built(tmp_path / store, store=store, png_width=WIDTH)
    batch = a_collator(index).batch(np.arange(8), np.full(8, 3), training=True)
    pickled = ForkingPickler.dumps(batch)
    assert b"rebuild_tensor" not in bytes(pickled)  # no tensor, which would be shared memory
    sent = ForkingPickler.loads(pickled)
    assert vars(sent).keys() == vars(batch).keys()
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            assert getattr(sent, name).dtype == value.dtype
            assert torch.equal(getattr(sent, name), value)
        else:
            assert getattr(sent, name) == value


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_refused_in_one_line(index, tmp_path, workers):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(index.folder), str(copy)], check=True)
    for path in copy.glob("train-*.tar"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(DamagedShards, match=r"train-\d+\.tar: is damaged") as refusal:
        training_batches(open_index(copy), workers=workers)
    assert "\n" not in str(refusal.value)


def test_a_second_pass_hashes_no_shard_that_a_reader_process_has_hashed(tmp_path, monkeypatch):
    old = open_index(REPO / "tests" / "fixtures" / "version_0_1" / "shards")
    hashed = []

    def counted(file):
        hashed.append(file.name)
        return sha256_of(file)

    monkeypatch.setattr(checked_files, "sha256_of", counted)
    for workers in (1, 0):  # as two validations, each of which starts its readers anew
        files = ShardFiles(old, CheckedFiles(tmp_path / "checked"))
        collator = Collator(files, width=WIDTH, max_height=MAX_HEIGHT, ladder=LADDER, seed=0)
        pages = EvaluationDataset(select(old, "all", width=WIDTH, max_height=MAX_HEIGHT), collator)
        list(read_batches(pages, range(len(pages)), workers=workers, prefetch=2))
    assert hashed == []
    shutil.rmtree(tmp_path / "checked")
    everything(ShardFiles(old, CheckedFiles(tmp_path / "checked")))
    assert len(hashed) == len(old.shards)


def a_copy(index: Index, folder: Path) -> Index:
    subprocess.run(["cp", "-r", str(index.folder), str(folder)], check=True)
    return open_index(folder)


def everything(files: ShardFiles) -> list[dict[str, bytes]]:
    return [files.members(number) for number in files.index.ids("all")]


def damaged_bytes(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


@pytest.mark.parametrize("change", ["in-place", "renamed-over"])
def test_a_shard_that_changes_while_in_use_is_refused(index, tmp_path, change):
    copy = a_copy(index, tmp_path / "copy")
    files = ShardFiles(copy)
    before = everything(files)
    path = copy.folder / copy.shards[0].name
    if change == "in-place":
        path.write_bytes(damaged_bytes(path))
    else:
        (tmp_path / "new").write_bytes(damaged_bytes(path))
        (tmp_path / "new").replace(path)
    with pytest.raises(DamagedShards, match=r"tar: was changed while it was in use: SHA-256"):
        files.members(0)
    # The same bytes once more are no change.
    again = a_copy(index, tmp_path / "again")
    files = ShardFiles(again)
    everything(files)
    path = again.folder / again.shards[0].name
    (tmp_path / "same").write_bytes(path.read_bytes())
    (tmp_path / "same").replace(path)
    assert everything(files) == before


def test_a_missing_shard_is_named(index, tmp_path):
    copy = a_copy(index, tmp_path / "copy")
    files = ShardFiles(copy)
    files.members(0)
    (copy.folder / copy.shards[0].name).unlink()
    for reader in (files, ShardFiles(copy)):
        with pytest.raises(DamagedShards, match=r"tar: cannot be opened \(No such file"):
            reader.members(0)


def test_shards_replaced_between_passes_are_refused(index, tmp_path):
    copy = a_copy(index, tmp_path / "copy")
    training_batches(copy, steps=range(1))
    shutil.rmtree(copy.folder)
    build([SAMPLE], copy.folder, BuildOptions(count=60, workers=1, shard_mb=0.05, seed=1))
    with pytest.raises(DamagedShards, match=r"index\.json: was replaced while it was in use"):
        training_batches(copy, steps=range(1))
