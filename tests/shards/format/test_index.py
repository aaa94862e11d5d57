"""Opening an index takes the same time for any number of samples."""

import json
import time

from shards.format.index import RECORD
from shards.open import open_index
from shards.reading.selection import select

SAMPLES, PER_SHARD = 10**8, 100_000


def test_an_index_of_a_hundred_million_samples_opens_quickly(tmp_path):
    """The table is a sparse file of nearly 2 GB; reading all of it would exceed the time limit."""
    shards = [
        {
            "name": f"train-{number:06d}.tar",
            "split": "train",
            "samples": PER_SHARD,
            "bytes": 1,
            "sha256": "0" * 64,
        }
        for number in range(SAMPLES // PER_SHARD)
    ]
    header = {"schema": 2, "store": "boxes", "samples": SAMPLES, "shards": shards}
    header |= {"labels": ["other"], "templates": [""], "table_sha256": "0" * 64}
    (tmp_path / "index.json").write_text(json.dumps(header))
    with (tmp_path / "index.bin").open("wb") as stream:
        stream.truncate(SAMPLES * RECORD.itemsize)
    assert SAMPLES * RECORD.itemsize <= 2 * 10**9
    started = time.perf_counter()
    index = open_index(tmp_path)
    chosen = select(index, "train", width=128, max_height=512)
    assert len(index) == len(chosen) == SAMPLES
    assert time.perf_counter() - started < 1
