"""Files of a sample, read from verified shards; a damaged shard is refused here."""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from shards.errors import DamagedShards
from shards.format.index import BLOCK, HEADER_NAME, Index
from shards.format.tar import JSON, read_members
from shards.reading.checked_files import CheckedFiles


class ShardFiles:
    """Reader of samples by id, from the byte ranges in the index.

    A process asks for the SHA-256 of a shard when it first opens it, and again when the file has
    changed since; a shard is hashed once per machine and day.

    Args:
        checked: memory of the checks; default: that of all processes of this user.
    """

    OPEN_FILES = 64

    def __init__(self, index: Index, checked: CheckedFiles | None = None) -> None:
        self.index = index
        self.checked = checked or CheckedFiles()
        self._open: OrderedDict[int, io.FileIO] = OrderedDict()
        self._checked: dict[int, tuple[int, ...]] = {}

    def __reduce__(self) -> tuple:
        return ShardFiles, (self.index, self.checked)

    def members(self, sample_id: int) -> dict[str, bytes]:
        """Return the files of one sample by extension: `json`, `boxes.npy`, `png`.

        Raises DamagedShards naming the shard and its fault.
        """
        record = self.index.rows(np.array([sample_id]))[0]
        return self.members_at(sample_id, record)

    def members_at(self, sample_id: int, record: np.void) -> dict[str, bytes]:
        """Return the files of one sample, given its row of the index; see `members`."""
        return {extension: content for _, extension, content in self._read(sample_id, record)}

    def array(
        self, sample_id: int, record: np.void, name: str, decode: Callable[[bytes], np.ndarray]
    ) -> np.ndarray:
        """Return one file of a sample, decoded; raise as `members` does.

        A shard with the right checksum may still hold a file that cannot be decoded.
        """
        return self._decoded(sample_id, record, name, decode)

    def metadata(self, sample_id: int) -> dict[str, Any]:
        """Return the metadata of a sample, see `Layout.meta`; raise as `members` does."""
        record = self.index.rows(np.array([sample_id]))[0]
        return self._decoded(sample_id, record, JSON, _json_object)

    def _decoded(
        self, sample_id: int, record: np.void, name: str, decode: Callable[[bytes], Any]
    ) -> Any:
        members = self.members_at(sample_id, record)
        try:
            return decode(members[name])
        except KeyError:
            reason = f"has no {name}"
        except ValueError as error:
            reason = f"cannot be read: {error}"
        shard = self.index.shards[self._shard_of(sample_id)].name
        raise DamagedShards(f"{self.index.location}/{shard}: sample {sample_id} {reason}")

    def key(self, sample_id: int) -> str:
        """Return the key of a sample, the start of its file names; raise as `members` does."""
        return self.names(sample_id)[0]

    def names(self, sample_id: int) -> tuple[str, str]:
        """Return the key of a sample and the page's own id, which may hold any character.

        The key is the start of the sample's file names: ASCII and unique, made of the id. Raises
        as `members` does, and if the sample's JSON cannot be read.
        """
        members = self._read(sample_id, self.index.rows(np.array([sample_id]))[0])
        key = members[0][0]
        try:
            meta = next(content for _, extension, content in members if extension == JSON)
            page_id = json.loads(meta)["id"]
        except (StopIteration, KeyError, TypeError, ValueError, RecursionError):
            page_id = None
        if not isinstance(page_id, str):
            shard = self.index.shards[self._shard_of(sample_id)].name
            path = f"{self.index.location}/{shard}"
            raise DamagedShards(f"{path}: sample {sample_id} has no {JSON} with an id")
        return key, page_id

    def prefetch(self, samples: Iterable[int]) -> None:
        """Fetch the shards of these samples from a server ahead of time, in this order."""
        if self.index.cache is not None:
            self.index.cache.prefetch(self.index.shards[self._shard_of(at)] for at in samples)

    def _shard_of(self, sample_id: int) -> int:
        return int(self.index.shards_of(np.array([sample_id]))[0])

    def _read(self, sample_id: int, record: np.void) -> list[tuple[str, str, bytes]]:
        shard = self._shard_of(sample_id)
        start, length = int(record["offset"]) * BLOCK, int(record["blocks"]) * BLOCK
        data = os.pread(self._file(shard).fileno(), length, start)
        path = f"{self.index.location}/{self.index.shards[shard].name}"
        if len(data) < length:
            raise DamagedShards(f"{path}: is truncated within sample {sample_id}")
        members = list(read_members(data, path))
        if not members:
            raise DamagedShards(f"{path}: has no files of sample {sample_id}")
        return members

    def _file(self, shard: int) -> io.FileIO:
        file = self._open.get(shard)
        if file is not None and (self.index.cache or stamp(file) == self._checked[shard]):
            self._open.move_to_end(shard)
            return file
        if file is not None:
            self._open.pop(shard).close()
        file = self._opened(shard)
        self._open[shard] = file
        if len(self._open) > self.OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def _opened(self, shard: int) -> io.FileIO:
        if self.index.cache is not None:
            self._close_removed()
            return self.index.cache.open(self.index.shards[shard])
        path = self.index.folder / self.index.shards[shard].name
        try:
            file = io.FileIO(path)
            current = stamp(file)
            if current != self._checked.get(shard):
                if not self.checked.has_sha256(file, self.index.shards[shard].sha256):
                    in_use = shard in self._checked
                    fault = "was changed while it was in use" if in_use else "is damaged"
                    raise DamagedShards(
                        f"{path}: {fault}: SHA-256 differs from {HEADER_NAME}; rebuild it or fetch "
                        "it again"
                    )
                self._checked[shard] = current
        except OSError as error:
            raise DamagedShards(f"{path}: cannot be opened ({error.strerror})") from error
        return file

    def _close_removed(self) -> None:
        """Close files that a cache has removed; open ones would still use space on the disk."""
        for shard in [n for n, file in self._open.items() if not os.fstat(file.fileno()).st_nlink]:
            self._open.pop(shard).close()


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("JSON is no object")
    return value


def stamp(file: io.FileIO) -> tuple[int, ...]:
    """Return values that change when an open file is written to, replaced or removed."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink
