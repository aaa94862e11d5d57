"""Verify shards: every byte of the tars and every row of the index.

    python -m shards.verify data/sample
    python -m shards.verify s3://bucket/pages

The exit status is 0 if all are undamaged and 1 otherwise; one line is printed for each fault. The
shards of a server are all fetched again, one after the other, without using the cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shards import cli, errors
from shards.atomic_files import sha256_of
from shards.errors import DamagedShards, UserError
from shards.format.index import (
    BLOCK,
    HEADER_NAME,
    REJECTS_NAME,
    TABLE_NAME,
    Index,
    Shard,
    header_bytes,
)
from shards.format.layout import BadLayout
from shards.format.png import decode_png
from shards.format.tar import BOXES, JSON, PNG, read_boxes, read_members
from shards.open import open_index
from shards.remote.cache import CacheOptions

PATIENCE = 60.0  # seconds for which a failing fetch is retried
END_OF_TAR = 2 * BLOCK  # bytes of zeros; padding to whole records may follow
MEMBERS = {"boxes": {JSON, BOXES}, "png": {JSON, PNG}, "both": {JSON, BOXES, PNG}}


def main() -> int:
    """Run the command and return the exit status."""
    parser = cli.Parser(
        prog="shards.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "location", type=cli.location, metavar="DIR", help="folder or address of shards"
    )
    location = parser.parse_args().location
    if isinstance(location, Path) and not location.is_dir():
        raise UserError(f"{location}: is not a folder")
    problems = 0
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        options = CacheOptions(folder, gigabytes=0, patience=PATIENCE)  # one shard at a time
        for problem in find_damage(location, options):
            print(problem)
            problems += 1
        if problems == 0:
            index = open_index(location, options)
            print(f"{location}: whole, {len(index)} samples in {len(index.shards)} shards")
    return 1 if problems else 0


def find_damage(location: str | Path, options: CacheOptions | None = None) -> Iterator[str]:
    """Yield one line for each fault of some shards.

    Args:
        options: cache for the files of an address; files in it are not fetched again.
    """
    try:
        index = open_index(location, options)
    except DamagedShards as error:
        yield str(error)
        return
    yield from _folder_faults(index) if index.cache is None else _server_faults(index)
    bar = cli.progress(index.shards, desc="checking", unit="shard")
    for shard in bar:
        yield from _shard_faults(index, shard)


def _folder_faults(index: Index) -> Iterator[str]:
    """Yield the faults of a folder in files other than the shards of its index."""
    path = index.folder / HEADER_NAME
    if path.read_bytes() != header_bytes(index.header):
        yield f"{path}: was changed: its own checksum does not match"
    if sha256_of(index.folder / TABLE_NAME) != index.header.get("table_sha256"):
        yield f"{index.folder / TABLE_NAME}: SHA-256 differs from {HEADER_NAME}"
    expected = {shard.name for shard in index.shards}
    for path in sorted(index.folder.glob("*.tar")):
        if path.name not in expected:
            yield f"{path}: is not in the index"
    if not (index.folder / REJECTS_NAME).exists():
        yield f"{index.folder / REJECTS_NAME}: is missing"


def _server_faults(index: Index) -> Iterator[str]:
    """Yield the faults of a server beside its shards; its index was verified by the fetch."""
    try:
        index.cache.remote.read(REJECTS_NAME)
    except DamagedShards as error:
        yield str(error)


def _shard_faults(index: Index, shard: Shard) -> Iterator[str]:
    path = f"{index.location}/{shard.name}"
    if index.cache is not None:
        try:
            stream = index.cache.open(shard)  # checks the SHA-256
        except DamagedShards as error:
            yield str(error)
            return
    else:
        local = index.folder / shard.name
        if not local.is_file():
            yield f"{path}: is missing"
            return
        size = local.stat().st_size
        if size != shard.bytes:
            yield f"{path}: {size} bytes, but {shard.bytes} in the index"
        elif sha256_of(local) != shard.sha256:
            yield f"{path}: SHA-256 differs from {HEADER_NAME}"
        stream = local.open("rb")
    with stream:
        yield from _sample_faults(index, shard, stream)


def _sample_faults(index: Index, shard: Shard, stream: BinaryIO) -> Iterator[str]:
    """Yield the faults of the samples in an open shard, up to the first unreadable sample."""
    path, expected = f"{index.location}/{shard.name}", 0
    for sample_id in range(shard.first, shard.first + shard.samples):
        record = index.table[sample_id]
        if int(record["offset"]) != expected:
            yield f"{path}: the offset of sample {sample_id} in the index is wrong"
            return
        expected += int(record["blocks"])
        data = stream.read(int(record["blocks"]) * BLOCK)
        try:
            _check_sample(index, record, data, path)
        except (DamagedShards, BadLayout, ValueError, KeyError, RecursionError) as error:
            yield f"{path}: sample {sample_id} cannot be read: {errors.one_line(str(error))}"
            return
    rest = stream.read()
    if len(rest) < END_OF_TAR or rest.strip(b"\0"):
        yield f"{path}: does not end after the last sample of the index"


def _check_sample(index: Index, record: np.void, data: bytes, path: str) -> None:
    """Raise if a sample differs from its row in the index."""
    members = list(read_members(data, path))
    contents = {extension: content for _, extension, content in members}
    if contents.keys() != MEMBERS[index.header["store"]] or len({key for key, *_ in members}) != 1:
        raise ValueError(f"its members are {', '.join(sorted(contents))}")
    meta = json.loads(contents[JSON])
    if not isinstance(meta, dict):
        raise ValueError(f"{JSON} holds no object")
    in_json = (meta["w"], meta["h"], meta["label"], meta.get("template", ""))
    if record["label"] >= len(index.labels) or record["template"] >= len(index.templates):
        raise ValueError("its row has a label or template that is not in the header")
    row = (
        int(record["width"]),
        int(record["height"]),
        index.labels[record["label"]],
        index.templates[record["template"]],
    )
    if in_json != row:
        raise ValueError(f"{JSON} has {in_json}, but its row {row}")
    if BOXES in contents:
        boxes = read_boxes(contents[BOXES])
        if len(boxes) != record["boxes"]:
            raise ValueError(f"{BOXES} has {len(boxes)} boxes, but its row {record['boxes']}")
        first, last = boxes[:, :2], boxes[:, 2:]
        if not ((first >= 0) & (first < last) & (last <= row[:2])).all():
            raise ValueError(f"{BOXES} has an empty box or one outside the canvas")
    if PNG in contents:
        decode_png(contents[PNG])


if __name__ == "__main__":
    cli.run("shards.verify", main)
