"""The files of a sample, read from where the index says their bytes lie in a shard."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np

from shards.errors import DamagedShards
from shards.format.index import BLOCK, Index
from shards.format.tar import read_members
from shards.storage import sha256_of


class ShardFiles:
    """Samples by id, straight from where the index says their bytes lie.

    Every shard is checked against its SHA-256 when it is first opened, once per process, and again
    when its file is no longer the one that was checked.
    """

    OPEN_FILES = 64

    def __init__(self, index: Index) -> None:
        self.index = index
        self._open: OrderedDict[int, io.FileIO] = OrderedDict()
        self._checked: dict[int, tuple[int, ...]] = {}

    def __reduce__(self) -> tuple:
        return ShardFiles, (self.index,)

    def members(self, sample_id: int) -> dict[str, bytes]:
        """The files of one sample by extension: `json`, `boxes.npy`, `png`.

        Raises DamagedShards naming the shard and what is wrong with it.
        """
        record = self.index.rows(np.array([sample_id]))[0]
        return self.members_at(sample_id, record)

    def members_at(self, sample_id: int, record: np.void) -> dict[str, bytes]:
        """As `members`, for whom has the sample's row of the index already."""
        return {extension: content for _, extension, content in self._read(sample_id, record)}

    def array(
        self, sample_id: int, record: np.void, name: str, decode: Callable[[bytes], np.ndarray]
    ) -> np.ndarray:
        """One file of a sample, decoded; raises as `members` does.

        A checksum says that a file is what the index was written for, not that it makes sense.
        """
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
        """What the names of a sample's files begin with; raises as `members` does."""
        return self._read(sample_id, self.index.rows(np.array([sample_id]))[0])[0][0]

    def prefetch(self, samples: Iterable[int]) -> None:
        """Fetch shards of a server ahead, each by a sample of it, in the order they are needed."""
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
            raise DamagedShards(f"{path}: ends before sample {sample_id} does")
        members = list(read_members(data, path))
        if not members:
            raise DamagedShards(f"{path}: holds nothing of sample {sample_id}")
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
            self._let_go()
            return self.index.cache.open(self.index.shards[shard])
        path = self.index.folder / self.index.shards[shard].name
        try:
            file = io.FileIO(path)
            found = stamp(file)
            if found != self._checked.get(shard):
                if sha256_of(file) != self.index.shards[shard].sha256:
                    what = (
                        "was changed while it was in use"
                        if shard in self._checked
                        else "is damaged"
                    )
                    raise DamagedShards(f"{path}: {what}: its SHA-256 is not the index's")
                self._checked[shard] = found
        except OSError as error:
            raise DamagedShards(f"{path}: cannot be opened ({error.strerror})") from error
        return file

    def _let_go(self) -> None:
        """Close files that a cache has removed: until then they take their place on the disk."""
        for shard in [n for n, file in self._open.items() if not os.fstat(file.fileno()).st_nlink]:
            self._open.pop(shard).close()


def stamp(file: io.FileIO) -> tuple[int, ...]:
    """What changes when an open file is written to, or replaced or removed by name."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_nlink
