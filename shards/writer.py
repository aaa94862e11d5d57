"""Pages to tars and an index, the same bytes for the same pages, on disk before they are named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.command import UserError
from shards.index import BLOCK, HEADER_NAME, REJECTS_NAME, TABLE_NAME, header_bytes, sha256_of
from shards.sources import Reject
from shards.spool import Place, Spools


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


class CannotWrite(UserError):
    """A full disk, or one that is not for writing; the message is one plain line."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes `path`; raises CannotWrite, naming it, where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{path}: cannot be written ({error.strerror or error})") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in place of one that is there."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` in the end, on disk and whole.

    Raises CannotWrite where the disk refuses; what was in `path` is still there then.
    """
    draft = path.with_name(f".{path.name}.tmp")
    with writing(path):
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            yield draft
            for file in draft.iterdir():
                sync_path(file)
            sync_path(draft)
            if path.exists():
                remove_folder(path)
            draft.rename(path)
            sync_path(path.parent)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # it may be what fills the disk
            raise


def remove_folder(path: Path) -> None:
    """Remove a folder whole: a crash leaves all of it, or what its name says is rubbish."""
    rubbish = path.with_name(f".{path.name}.old.tmp")
    path.rename(rubbish)
    shutil.rmtree(rubbish)


def sync_path(path: Path) -> None:
    """Have the disk hold a file, or a folder's own entries, the names of what is in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
