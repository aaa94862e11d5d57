"""An index of any number of samples: one real shard under as many names as it takes.

What an index and an order of samples cost depends on the table, not on what is in the tars; and the
samples of the first batch are really read.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from shards.errors import DamagedShards
from shards.format.index import BLOCK, HEADER_NAME, TABLE_NAME, header_bytes
from shards.open import open_index
from shards.reading.collator import Collator
from shards.reading.datasets import TrainingDataset
from shards.reading.height_ladder import height_ladder
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import select
from shards.reading.shard_files import ShardFiles
from shards.storage import sha256_of

SHARD_BYTES = 32 << 20  # as shards.build cuts them
PAGES_A_TEMPLATE = 100
WIDTH, ROWS, STRIDE = 128, 512, 16
MICRO_BATCH, WINDOW = 16, 8  # pages of a rank's step; shards that are shuffled together


def make(folder: Path, built: Path, samples: int) -> None:
    """Write shards of `samples` training pages, copies of those of a small folder of one shard."""
    source = open_index(built)
    pages = len(source)
    last = source.table[-1]
    blocks = int(last["offset"]) + int(last["blocks"])
    times = max(1, SHARD_BYTES // (blocks * BLOCK))
    folder.mkdir()
    shard = folder / "train-000000.tar"
    data = (built / source.shards[0].name).read_bytes()[: blocks * BLOCK]
    shard.write_bytes(data * times + bytes(2 * BLOCK))
    one = replace(
        source.shards[0], samples=times * pages, bytes=shard.stat().st_size, sha256=sha256_of(shard)
    )
    rows = np.tile(source.table, times)
    rows["offset"] += np.repeat(np.arange(times, dtype=np.uint32) * blocks, pages)
    shards = []
    with (folder / TABLE_NAME).open("xb") as table:
        for number in range(-(-samples // len(rows))):
            count = min(len(rows), samples - number * len(rows))
            shards.append(asdict(replace(one, name=f"train-{number:06}.tar", samples=count)))
            del shards[-1]["first"]
            if number:
                os.link(shard, folder / shards[-1]["name"])
            table.write(rows[:count].tobytes())
        table.flush()
        os.fsync(table.fileno())
    names = [f"template {n}" for n in range(max(samples // PAGES_A_TEMPLATE, 1))]
    templates = source.templates + names[len(source.templates) :]
    header = source.header | {"samples": samples, "shards": shards, "templates": templates}
    (folder / HEADER_NAME).write_bytes(header_bytes(header))


def forget(folder: Path) -> None:
    """Let the kernel drop the table's pages, so that it is read from the disk again."""
    with (folder / TABLE_NAME).open("rb") as table:
        os.posix_fadvise(table.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(folder: Path, ranks: int, rank: int, epochs: float) -> dict[str, float]:
    """What a rank does until it has its first batch, of a run that is `epochs` epochs old.

    Returns: seconds until the index is `open`, until the `ids` of the step are known, until the
        `batch` is read and its shards are checked; all from the start.
    """
    begun = time.perf_counter()
    told = {}
    index = open_index(folder)
    selection = select(index, "train", width=WIDTH, max_height=ROWS)
    told["open"] = time.perf_counter() - begun
    ladder = height_ladder(ROWS, STRIDE)
    order = SampleOrder(
        selection,
        seed=0,
        global_batch_size=ranks * MICRO_BATCH,
        window_shards=WINDOW,
        ladder=ladder,
    )
    step = int(epochs * len(selection)) // order.global_batch_size
    order.step(step)
    told["ids"] = time.perf_counter() - begun
    collator = Collator(ShardFiles(index), width=WIDTH, max_height=ROWS, ladder=ladder, seed=0)
    reader = TrainingDataset(
        order, collator, rank=rank, world_size=ranks, micro_batch_size=MICRO_BATCH
    )
    batch = reader[step]
    if isinstance(batch, DamagedShards):
        raise batch
    told["batch"] = time.perf_counter() - begun
    return told


def memory(folder: Path, ranks: int) -> int:
    """Bytes at the peak of `start`, the mapped table's pages apart, which all processes share."""
    tracemalloc.start()
    start(folder, ranks, 0, 0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def on_disk(folder: Path) -> int:
    """Bytes of the index's two files."""
    return sum((folder / name).stat().st_size for name in (HEADER_NAME, TABLE_NAME))
