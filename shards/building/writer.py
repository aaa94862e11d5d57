"""Writer of tars and index: equal pages give equal bytes; files are synced to disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.atomic_files import sha256_of
from shards.building.sources import Reject
from shards.building.spool import SpoolOffset, Spools
from shards.format.index import BLOCK, HEADER_NAME, REJECTS_NAME, TABLE_NAME, header_bytes


@dataclass(frozen=True)
class Entry:
    """A page of a shard: its key, its members' names and sizes, and the place of their bytes."""

    key: str
    members: tuple[tuple[str, int], ...]
    spooled: SpoolOffset


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: the tar's path, the folder of the spool files, the pages in order."""

    path: Path
    spool: Path
    entries: Sequence[Entry]


@dataclass(frozen=True)
class WrittenShard:
    """A written shard: its size, its checksum, and each page's offset and size in tar blocks."""

    bytes: int
    sha256: str
    offsets: list[int]
    blocks: list[int]


def write_shard(plan: ShardPlan) -> WrittenShard:
    """Write one tar with webdataset's own writer; runs in the worker processes."""
    # Imported here: webdataset imports torch, which takes seconds; `--help` needs neither.
    from webdataset import TarWriter

    starts = []
    with plan.path.open("xb") as stream, Spools(plan.spool) as spools:
        # Owner and time are fixed, so that the same pages give the same bytes every time.
        with TarWriter(stream, user="root", group="root", mtime=0, encoder=False) as tar:
            for entry in plan.entries:
                starts.append(tar.tarstream.offset // BLOCK)
                tar.write({"__key__": entry.key, **_members(entry, spools)})
            end = tar.tarstream.offset // BLOCK
        stream.flush()
        os.fsync(stream.fileno())
    blocks = np.diff([*starts, end]).tolist()
    return WrittenShard(plan.path.stat().st_size, sha256_of(plan.path), starts, blocks)


def _members(entry: Entry, spools: Spools) -> dict[str, bytes]:
    offset = entry.spooled.offset
    contents = {}
    for name, size in entry.members:
        contents[name] = spools.read(SpoolOffset(entry.spooled.file, offset), size)
        offset += size
    return contents


def write_index(folder: Path, header: dict[str, Any], table: np.ndarray) -> None:
    """Write the table, and the header with the checksums of the table and of itself."""
    data = table.tobytes()
    header = {**header, "table_sha256": hashlib.sha256(data).hexdigest()}
    _write(folder / TABLE_NAME, data)
    _write(folder / HEADER_NAME, header_bytes(header))


def write_rejects(folder: Path, rejects: Iterable[Reject]) -> None:
    """Write `rejects.jsonl`: one line for each refused input, without the fields that are None."""
    lines = []
    for reject in rejects:
        fields = {key: value for key, value in asdict(reject).items() if value is not None}
        lines.append(json.dumps(fields) + "\n")
    _write(folder / REJECTS_NAME, "".join(lines).encode())


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
