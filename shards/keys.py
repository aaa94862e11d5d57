"""The keys of samples: the names of their members in the tars."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shards.index import BLOCK, DamagedShards, Index
from shards.tar import read_members


def read_keys(index: Index, ids: Iterable[int]) -> list[str]:
    """The key of each sample, read where the index says its bytes lie.

    Raises DamagedShards naming the shard that is missing or holds no sample there.
    """
    wanted = list(ids)
    keys: dict[int, str] = {}
    by_shard: dict[int, list[int]] = {}
    for number in wanted:
        by_shard.setdefault(int(index.table[number]["shard"]), []).append(number)
    for shard, numbers in by_shard.items():
        path = index.folder / index.shards[shard].name
        try:
            with path.open("rb") as stream:
                for number in numbers:
                    record = index.table[number]
                    stream.seek(int(record["offset"]) * BLOCK)
                    data = stream.read(int(record["blocks"]) * BLOCK)
                    keys[number] = _first_key(data, path, number)
        except OSError as error:
            raise DamagedShards(f"{path}: cannot be read ({error.strerror})") from error
    return [keys[number] for number in wanted]


def _first_key(data: bytes, path: Path, number: int) -> str:
    for key, _, _ in read_members(data, path):
        return key
    raise DamagedShards(f"{path}: ends before sample {number} does")
