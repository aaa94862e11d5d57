"""Index of shards: a small JSON header and a memory-mapped table with one row per sample.

The id of a sample is its row and never changes. Train samples come first, then val. The samples of
one shard are consecutive rows in the order of the tar; the header holds their number. Opening takes
the same time for ten samples and for 10^8. A damaged index is refused here.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.errors import DamagedShards
from shards.location import INDEX_NAME, describe_other_files

SCHEMA = 2
HEADER_NAME = INDEX_NAME
TABLE_NAME = "index.bin"
REJECTS_NAME = "rejects.jsonl"
BLOCK = 512  # bytes of a tar block
SPLITS = ("train", "val")
STORES = ("boxes", "png", "both")

# The members of a sample are bytes [offset * BLOCK, (offset + blocks) * BLOCK) of its shard.
# `boxes` is 0 for PNG-only samples; `label` and `template` are positions in the header's lists.
RECORD = np.dtype(
    [
        ("offset", "<u4"),
        ("blocks", "<u2"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("boxes", "<u2"),
        ("label", "<u2"),
        ("template", "<u4"),
    ]
)

_HEADER_SHA256 = "header_sha256"
_SHARD_NAME = re.compile(r"(train|val)-\d{6}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")  # used as file name in caches, and in model cards


@dataclass(frozen=True)
class Shard:
    """One tar: file name, split, number of samples, size in bytes, checksum, first sample id."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    first: int


class ShardStore(Protocol):
    """Interface of the cache for shards on a server, see `shards.remote.cache`."""

    remote: Any
    options: Any

    def open(self, shard: Shard) -> io.FileIO:
        """Open a complete and verified shard."""

    def prefetch(self, shards: Iterable[Shard]) -> None:
        """Fetch shards before they are used."""


@dataclass(frozen=True)
class Index:
    """An opened index. `table` is memory-mapped, of dtype `RECORD`, one row per sample.

    cache: cache of shards on a server; None: the shards lie in `folder`, beside the index.
    labels, templates: names that the table's columns point into; samples without a template have
        the template "".
    """

    folder: Path
    header: dict[str, Any]
    shards: list[Shard]
    labels: list[str]
    templates: list[str]
    table: np.ndarray
    cache: ShardStore | None = None

    @classmethod
    def of_folder(cls, folder: Path, cache: ShardStore | None = None) -> Index:
        """Open the index in `folder`; the shards are there or in a cache. The table is not read.

        Raises `DamagedShards` if header or table is missing, malformed, or of different sizes. The
        contents of table and tars are checked when they are read, and by `shards.verify`.
        """
        path = folder / HEADER_NAME
        header = _read_header(path)
        shards = _shards(path, header)
        samples = sum(shard.samples for shard in shards)
        if header.get("samples") != samples:
            raise DamagedShards(f'{path}: "samples" is not the {samples} samples of its shards')
        table = _map_table(folder / TABLE_NAME, samples)
        labels, templates = (_names(path, header, key) for key in ("labels", "templates"))
        return cls(folder, header, shards, labels, templates, table, cache)

    def __len__(self) -> int:
        return len(self.table)

    def __reduce__(self) -> tuple:
        # Reader processes get the folder's name; pickling a memory map copies all its data.
        return Index.of_folder, (self.folder, self.cache)

    def check_unchanged(self) -> None:
        """Raise DamagedShards if the header on disk is not the opened one any more."""
        path = self.folder / HEADER_NAME
        if _read_header(path) != self.header:
            raise DamagedShards(f"{path}: was replaced while it was in use; start again")

    @property
    def location(self) -> str:
        """Folder or address of the shards, for messages."""
        return str(self.folder) if self.cache is None else self.cache.remote.url

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the table's rows of sample ids, int64 (B,); raise DamagedShards for a bad row."""
        rows = self.table[ids]
        is_valid = (rows["width"] > 0) & (rows["height"] > 0)
        is_valid &= rows["label"] < len(self.labels)
        is_valid &= rows["template"] < len(self.templates)
        if not is_valid.all():
            bad = np.asarray(ids)[~is_valid][0]
            raise DamagedShards(f"{self.folder / TABLE_NAME}: the row of sample {bad} is damaged")
        return rows

    def shards_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of the shard, int64 (B,), of each sample id, int64 (B,)."""
        return np.searchsorted(self._firsts, ids, side="right") - 1

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([shard.first for shard in self.shards])

    def ids(self, split: str) -> range:
        """Return the sample ids of "train", "val" or "all"."""
        train = sum(shard.samples for shard in self.shards if shard.split == "train")
        bounds = {"train": (0, train), "val": (train, len(self)), "all": (0, len(self))}
        return range(*bounds[split])


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_bytes())
    except OSError as error:
        held = describe_other_files(path.parent)
        fault = held or f"{path}: {error.strerror}; rebuild with shards.build"
        raise DamagedShards(fault) from None
    except (ValueError, RecursionError):
        raise DamagedShards(f"{path}: is damaged: not JSON") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise DamagedShards(f"{path}: is not an index of schema {SCHEMA}; rebuild the shards")
    if header.get("store") not in STORES:
        raise DamagedShards(f'{path}: "store" must be one of {", ".join(STORES)}')
    width = header.get("png_width")
    if width is not None and not (type(width) is int and width > 0):
        raise DamagedShards(f'{path}: "png_width" must be a positive number or null')
    if not _is_sha256(header.get("table_sha256")):
        raise DamagedShards(f'{path}: "table_sha256" must be a SHA-256')
    return header


def _shards(path: Path, header: dict[str, Any]) -> list[Shard]:
    entries = header.get("shards")
    if not isinstance(entries, list) or not entries:
        raise DamagedShards(f'{path}: "shards" must be a list with at least one entry')
    shards: list[Shard] = []
    first = 0
    for number, entry in enumerate(entries):
        if not _is_shard(entry):
            raise DamagedShards(f'{path}: entry {number} of "shards" is damaged')
        shards.append(Shard(first=first, **entry))
        first += entry["samples"]
    splits = [shard.split for shard in shards]
    if splits != sorted(splits) or len({shard.name for shard in shards}) != len(shards):
        raise DamagedShards(f'{path}: "shards" are out of order or repeated')
    return shards


def _is_shard(entry: object) -> bool:
    kinds = {"name": str, "split": str, "samples": int, "bytes": int, "sha256": str}
    if not isinstance(entry, dict) or {key: type(entry[key]) for key in entry} != kinds:
        return False
    name = _SHARD_NAME.fullmatch(entry["name"])
    is_named = name is not None and name[1] == entry["split"] and _is_sha256(entry["sha256"])
    return is_named and entry["samples"] > 0 and entry["bytes"] > 0


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _names(path: Path, header: dict[str, Any], key: str) -> list[str]:
    names = header.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DamagedShards(f'{path}: "{key}" must be a list of strings')
    return names


def _map_table(path: Path, samples: int) -> np.ndarray:
    try:
        size = path.stat().st_size
        if size != samples * RECORD.itemsize:
            raise DamagedShards(
                f"{path}: {size} bytes, but {samples} samples need {samples * RECORD.itemsize}"
            )
        return np.memmap(path, RECORD, mode="r")
    except OSError as error:
        raise DamagedShards(f"{path}: {error.strerror}; rebuild with shards.build") from None


def header_bytes(header: dict[str, Any]) -> bytes:
    """Return the bytes of the header file; its last entry is the SHA-256 of the other entries.

    An existing entry of that name is replaced.
    """
    signed = {key: value for key, value in header.items() if key != _HEADER_SHA256}
    signed[_HEADER_SHA256] = hashlib.sha256(json.dumps(signed).encode()).hexdigest()
    return json.dumps(signed, indent=1).encode() + b"\n"
