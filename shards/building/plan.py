"""Plan of a build: keys of the pages, their order, and the shard of each.

Pure functions of the pages and the seed. Every choice depends on names and a seeded hash; the order
in which pages arrived, and numpy's random streams, which may change with its version, are not used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from shards.building.pages import Page
from shards.format.index import BLOCK

_KEY_LENGTH = 70  # of 80 characters; the rest is for the number that makes a key unique


def sort_pages(pages: Iterable[Page]) -> list[Page]:
    """Sort the pages by id and content, so that their order does not depend on how they were read.

    Pages that are equal in both have the same bytes.
    """
    return sorted(pages, key=lambda page: (page.id, page.content, page.file, page.line or 0))


def unique_keys(pages: Sequence[Page]) -> list[str]:
    """Return a unique tar key for each page, made of its id: ASCII, without dots and slashes."""
    used: set[str] = set()
    counts: Counter[str] = Counter()
    keys = []
    for page in pages:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", page.id)[:_KEY_LENGTH] or "page"
        key = stem
        while key in used:
            counts[stem] += 1
            key = f"{stem}-{counts[stem] + 1}"
        used.add(key)
        keys.append(key)
    return keys


def shuffled(keys: Iterable[str], seed: int) -> list[int]:
    """Return the positions of the keys in a random order that depends on keys and seed only."""
    keys = list(keys)
    return sorted(range(len(keys)), key=lambda at: seeded_hash(seed, "shuffle", keys[at]))


def cut(pages: Sequence[Page], order: Sequence[int], shard_bytes: int) -> list[list[int]]:
    """Cut an order of pages into shards of about equal size, not much over `shard_bytes`."""
    total = sum(pages[at].blocks for at in order) * BLOCK
    count = -(-total // shard_bytes)
    shards: list[list[int]] = [[] for _ in range(count)]
    start = 0
    for at in order:
        shards[start * count // total].append(at)
        start += pages[at].blocks * BLOCK
    return [shard for shard in shards if shard]


def seeded_hash(seed: int, purpose: str, name: str) -> bytes:
    """Return a hash of a name that is the same on every machine and in every version."""
    return blake2b(f"{seed}/{purpose}/{name}".encode(), digest_size=16).digest()
