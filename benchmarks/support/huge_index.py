"""Indexes of up to 10^8 samples, made of hard links to one real shard, and the time to use them.

The cost of an index and of an order of samples depends on the table, not on the contents of the
shards. The samples of the first batch are read from the real shard.
"""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from shards.atomic_files import sha256_of
from shards.errors import DamagedShards
from shards.format.index import BLOCK, HEADER_NAME, TABLE_NAME, header_bytes
from shards.open import open_index
from shards.reading.checked_files import CheckedFiles
from shards.reading.collator import Collator
from shards.reading.datasets import TrainingDataset
from shards.reading.height_ladder import height_ladder
from shards.reading.partitioned_order import build_order
from shards.reading.selection import select
from shards.reading.shard_files import ShardFiles

SHARD_BYTES = 32 << 20  # as in shards.build
PAGES_PER_TEMPLATE = 100
WIDTH, ROWS, STRIDE = 128, 512, 16
MICRO_BATCH, WINDOW = 16, 8  # pages of a rank's step; shards that are shuffled together


def write_index(folder: Path, built: Path, samples: int) -> None:
    """Write shards of `samples` training pages, copies of those in `built`, which has one shard."""
    source = open_index(built)
    pages = len(source)
    last = source.table[-1]
    blocks = int(last["offset"]) + int(last["blocks"])
    copies = max(1, SHARD_BYTES // (blocks * BLOCK))
    folder.mkdir()
    shard = folder / "train-000000.tar"
    data = (built / source.shards[0].name).read_bytes()[: blocks * BLOCK]
    shard.write_bytes(data * copies + bytes(2 * BLOCK))
    entry = replace(
        source.shards[0],
        samples=copies * pages,
        bytes=shard.stat().st_size,
        sha256=sha256_of(shard),
    )
    rows = np.tile(source.table, copies)
    rows["offset"] += np.repeat(np.arange(copies, dtype=np.uint32) * blocks, pages)
    shards = []
    with (folder / TABLE_NAME).open("xb") as table:
        for number in range(-(-samples // len(rows))):
            count = min(len(rows), samples - number * len(rows))
            shards.append(asdict(replace(entry, name=f"train-{number:06}.tar", samples=count)))
            del shards[-1]["first"]
            if number:
                os.link(shard, folder / shards[-1]["name"])
            table.write(rows[:count].tobytes())
        table.flush()
        os.fsync(table.fileno())
    names = [f"template {n}" for n in range(max(samples // PAGES_PER_TEMPLATE, 1))]
    templates = source.templates + names[len(source.templates) :]
    header = source.header | {"samples": samples, "shards": shards, "templates": templates}
    (folder / HEADER_NAME).write_bytes(header_bytes(header))


def drop_page_cache(folder: Path) -> None:
    """Drop the table from the page cache, so that it is read from the disk again."""
    with (folder / TABLE_NAME).open("rb") as table:
        os.posix_fadvise(table.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_first_batch(folder: Path, ranks: int, rank: int, epochs: float) -> dict[str, float]:
    """Time the start of a rank up to its first batch, `epochs` epochs into a run.

    Returns: seconds from the start until the index is `open`, until the `ids` of the step are
        known, and until the `batch` is read and its shards are checked.
    """
    start = time.perf_counter()
    seconds = {}
    index = open_index(folder)
    selection = select(index, "train", width=WIDTH, max_height=ROWS)
    seconds["open"] = time.perf_counter() - start
    ladder = height_ladder(ROWS, STRIDE)
    order = build_order(
        selection,
        seed=0,
        global_batch_size=ranks * MICRO_BATCH,
        window_shards=WINDOW,
        ladder=ladder,
    )
    step = int(epochs * len(selection)) // order.global_batch_size
    order.step(step, order.team(rank, ranks).partitions)
    seconds["ids"] = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as name:  # no check of an earlier start is remembered
        files = ShardFiles(index, CheckedFiles(Path(name)))
        collator = Collator(files, width=WIDTH, max_height=ROWS, ladder=ladder, seed=0)
        reader = TrainingDataset(
            order, collator, rank=rank, world_size=ranks, micro_batch_size=MICRO_BATCH
        )
        batch = reader[step]
    if isinstance(batch, DamagedShards):
        raise batch
    seconds["batch"] = time.perf_counter() - start
    return seconds


def peak_memory(folder: Path, ranks: int) -> int:
    """Return the bytes allocated at the peak of `time_first_batch`.

    The mapped table is not included: all processes share its pages.
    """
    tracemalloc.start()
    time_first_batch(folder, ranks, 0, 0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def disk_bytes(folder: Path) -> int:
    """Return the size of the index's two files."""
    return sum((folder / name).stat().st_size for name in (HEADER_NAME, TABLE_NAME))
