"""Pages to tars and an index, the same bytes for the same pages, on disk before they are named."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.building.sources import Reject
from shards.building.spool import Place, Spools
from shards.format.index import BLOCK, HEADER_NAME, REJECTS_NAME, TABLE_NAME, header_bytes
from shards.storage import sha256_of


@dataclass(frozen=True)
class Entry:
    """A page of a shard: its key, its members' names and sizes, where their bytes wait."""

    key: str
    members: tuple[tuple[str, int], ...]
    place: Place


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: the tar's path, the folder of the spool files, the pages in order."""

    path: Path
    spool: Path
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Written:
    """A written shard: its size, its checksum, and where each page lies in it, in tar blocks."""

    bytes: int
    sha256: str
    offsets: list[int]
    blocks: list[int]


def write_shard(plan: ShardPlan) -> Written:
    """Write one tar with webdataset's own writer; this is what worker processes do."""
    # Imported here: webdataset imports torch, and a build that fails early needs neither.
    from webdataset import TarWriter

    starts = []
    with plan.path.open("xb") as stream, Spools(plan.spool) as spools:
        # Fixed owners and times, or the same pages would give other bytes every time.
        with TarWriter(stream, user="root", group="root", mtime=0, encoder=False) as tar:
            for entry in plan.entries:
                starts.append(tar.tarstream.offset // BLOCK)
                tar.write({"__key__": entry.key, **_members(entry, spools)})
            end = tar.tarstream.offset // BLOCK
        stream.flush()
        os.fsync(stream.fileno())
    blocks = np.diff([*starts, end]).tolist()
    return Written(plan.path.stat().st_size, sha256_of(plan.path), starts, blocks)


def _members(entry: Entry, spools: Spools) -> dict[str, bytes]:
    offset = entry.place.offset
    contents = {}
    for name, size in entry.members:
        contents[name] = spools.read(Place(entry.place.file, offset), size)
        offset += size
    return contents


def write_index(folder: Path, header: dict[str, Any], table: np.ndarray) -> None:
    """Write the table, and the header with the checksums of the table and of the header in it."""
    data = table.tobytes()
    header = {**header, "table_sha256": hashlib.sha256(data).hexdigest()}
    _write(folder / TABLE_NAME, data)
    _write(folder / HEADER_NAME, header_bytes(header))


def write_rejects(folder: Path, rejects: Iterable[Reject]) -> None:
    """Write `rejects.jsonl`: a line for each input that was left out; what is None is left away."""
    lines = []
    for reject in rejects:
        told = {key: value for key, value in asdict(reject).items() if value is not None}
        lines.append(json.dumps(told) + "\n")
    _write(folder / REJECTS_NAME, "".join(lines).encode())


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
