"""Shards on an object store over a simulated network, whose requests take time and fail."""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from shards.atomic_files import sha256_of
from shards.format.index import BLOCK, HEADER_NAME, TABLE_NAME, Shard, header_bytes
from shards.open import open_index
from shards.reading import checked_files
from shards.remote import cache
from shards.remote.client import Remote


def write_shards(folder: Path, built: Path, shards: int, pages: int, last: int) -> None:
    """Write small shards of different contents, made of the pages of one built shard.

    Args:
        built: folder with one shard; its smaller pages are used.
        pages: of each shard, but `last` of the last one.
    """
    source = open_index(built)
    data = (built / source.shards[0].name).read_bytes()
    small = np.argsort(source.table["blocks"], kind="stable")[: len(source) // 2]
    folder.mkdir()
    entries, tables = [], []
    for number in range(shards):
        # Another first page or another distance for each shard, so that no two are equal.
        distance, first = divmod(number, len(small))
        count = pages if number < shards - 1 else last
        rows = source.table[small[(first + (1 + distance) * np.arange(count)) % len(small)]]
        ends = [(int(row["offset"]), int(row["offset"]) + int(row["blocks"])) for row in rows]
        tar = b"".join(data[first * BLOCK : end * BLOCK] for first, end in ends) + bytes(2 * BLOCK)
        blocks = rows["blocks"].astype(np.uint32)
        rows["offset"] = np.cumsum(blocks) - blocks
        path = folder / f"train-{number:06}.tar"
        path.write_bytes(tar)
        sizes = {"samples": count, "bytes": len(tar), "sha256": sha256_of(path)}
        entries.append(asdict(replace(source.shards[0], name=path.name, **sizes)))
        del entries[-1]["first"]
        tables.append(rows.tobytes())
    (folder / TABLE_NAME).write_bytes(b"".join(tables))
    header = source.header | {
        "samples": sum(entry["samples"] for entry in entries),
        "shards": entries,
        "table_sha256": sha256_of(folder / TABLE_NAME),
    }
    (folder / HEADER_NAME).write_bytes(header_bytes(header))


@dataclass
class Traffic:
    """Counts by node.

    Attributes:
        requests: of shards to the object store, failed ones as well.
        fetched, hashed: bytes of shards.
        again: bytes of the shards among them that were fetched before, and removed from the cache.
        opened: bytes of the shards that a node's ranks have opened, by checksum.
    """

    requests: Counter[str] = field(default_factory=Counter)
    fetched: Counter[str] = field(default_factory=Counter)
    hashed: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    opened: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def needed(self) -> Counter[str]:
        """Bytes of the shards that a node's ranks have opened; some are fetched ahead of that."""
        return Counter({node: sum(shards.values()) for node, shards in self.opened.items()})


class ObjectStore:
    """A folder that the nodes of a cluster read as an object store, each by its own address.

    Requests, retries, checks and caches are those of `shards.remote`; only the driver is replaced.

    Attributes:
        traffic: counts since the last call of `new_traffic`.
    """

    def __init__(self, folder: Path, caches: Path, seconds: float, fail_every: int) -> None:
        """Prepare a store.

        Args:
            caches: folder of the nodes' caches.
            seconds: that a request takes; every twentieth one takes ten times as long.
            fail_every: a request of this many is reset.
        """
        self.folder, self.caches = folder, caches
        self.seconds, self.fail_every = seconds, fail_every
        self.traffic = Traffic()
        self._lock, self._requests = threading.Lock(), 0
        self._fetched: set[str] = set()  # addresses

    @staticmethod
    def address(node: str) -> str:
        """Return the address by which a node reads the shards."""
        return f"http://store/{node}"

    def cache_of(self, node: str) -> Path:
        """Return the folder of a node's cache."""
        return self.caches / node

    def new_traffic(self) -> Traffic:
        """Return the counts so far, and begin new ones."""
        with self._lock:
            before, self.traffic = self.traffic, Traffic()
            self._fetched.clear()
        return before

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Let all requests of this process go to this store, and count what caches do."""
        open_shard = cache.ShardCache.open

        def opened(own: cache.ShardCache, shard: Shard) -> io.FileIO:
            with self._lock:
                node = self.traffic.opened.setdefault(own.folder.name, {})
                node[shard.sha256] = shard.bytes
            return open_shard(own, shard)

        with (
            patch.object(cache.ShardCache, "open", opened),
            patch.object(Remote, "_filesystem", lambda remote: self),
            patch.object(cache, "sha256_of", self._hashed),
            patch.object(checked_files, "sha256_of", self._hashed),
        ):
            yield

    # Methods of the driver.

    def cat_file(self, address: str) -> bytes:
        """Return the bytes of a small file."""
        return (self.folder / address.rpartition("/")[2]).read_bytes()

    def get_file(self, address: str, path: str) -> None:
        """Copy a file to `path` after some time; raise OSError at times."""
        node, name = address.rsplit("/", 2)[1:]
        source = self.folder / name
        with self._lock:
            self._requests += 1
            number = self._requests
            if name != TABLE_NAME:
                self.traffic.requests[node] += 1
        time.sleep(self.seconds * (10 if number % 20 == 0 else 1))
        if number % self.fail_every == 0:
            raise ConnectionResetError("connection reset by the simulated network")
        with self._lock:
            if name != TABLE_NAME:
                self.traffic.fetched[node] += source.stat().st_size
                self.traffic.again[node] += source.stat().st_size * (address in self._fetched)
                self._fetched.add(address)
        shutil.copyfile(source, path)

    def _hashed(self, file: Path | io.FileIO) -> str:
        path = file if isinstance(file, Path) else Path(str(file.name))
        if path.name != TABLE_NAME:
            with self._lock:
                self.traffic.hashed[path.parent.name] += path.stat().st_size
        return sha256_of(file)
