"""Which pages go where: keys, the split, and the shards. Pure functions of the pages and the seed.

Every choice hangs on names and a seeded hash, never on the order in which pages arrived, nor on a
generator whose stream could change with a version of numpy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from shards.building.pages import Page
from shards.errors import UserError
from shards.format.index import BLOCK

_KEY_LENGTH = 70  # of 80; the rest is for what makes it unique
_BY_SAMPLE = "sample"


def sort_pages(pages: Iterable[Page]) -> list[Page]:
    """The order from which all others are made; pages that tie in it are the same to the byte."""
    return sorted(pages, key=lambda page: (page.id, page.content, page.file, page.line or 0))


def unique_keys(pages: Sequence[Page]) -> list[str]:
    """A tar key for each page, from its id: ASCII, no dots or slashes, no two alike."""
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    keys = []
    for page in pages:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", page.id)[:_KEY_LENGTH] or "page"
        key = stem
        while key in taken:
            counts[stem] += 1
            key = f"{stem}-{counts[stem] + 1}"
        taken.add(key)
        keys.append(key)
    return keys


def split_key(pages: Iterable[Page], asked: str | None) -> str:
    """What to split by: what was asked for, else the first of template and source that is given.

    Raises `UserError` if no page has the key asked for.
    """
    if asked == _BY_SAMPLE:
        return _BY_SAMPLE
    if asked is not None:
        if not any(page.split_key for page in pages):
            raise UserError(f"--split-by {asked}: no layout says its {asked}")
        return asked
    if any(page.template for page in pages):
        return "template"
    return "source" if any(page.source for page in pages) else _BY_SAMPLE


def groups(pages: Sequence[Page], key: str, asked: str | None) -> list[str]:
    """The group of each page; groups are never split. A page without the key falls back.

    To its template, then its source, and then it is a group of its own.
    """
    return [_group(page, key, asked) for page in pages]


def _group(page: Page, key: str, asked: str | None) -> str:
    if key == _BY_SAMPLE:
        return f"{_BY_SAMPLE}:{page.id}"
    if asked is not None and page.split_key:
        return f"{key}:{page.split_key}"
    if page.template:
        return f"template:{page.template}"
    return f"source:{page.source}" if page.source else f"{_BY_SAMPLE}:{page.id}"


def val_groups(group_of: Iterable[str], fraction: float, seed: int) -> set[str]:
    """The groups to validate on: drawn by hash, taken while they bring the share nearer to it.

    At least one, and not all, where there are two or more and `fraction` is over 0.
    """
    sizes = Counter(group_of)
    if fraction <= 0 or len(sizes) < 2:
        return set()
    order = sorted(sizes, key=lambda group: seeded_hash(seed, "split", group))
    wanted = fraction * sizes.total()
    chosen: set[str] = set()
    held = 0
    for group in order:
        if abs(held + sizes[group] - wanted) < abs(held - wanted):
            chosen.add(group)
            held += sizes[group]
    smallest = min(order, key=sizes.__getitem__)
    if not chosen:
        return {smallest}
    return chosen - {smallest} if len(chosen) == len(sizes) else chosen


def shuffled(keys: Iterable[str], seed: int) -> list[int]:
    """The positions of the keys in an order drawn by `seed` that hangs on the keys alone."""
    keys = list(keys)
    return sorted(range(len(keys)), key=lambda at: seeded_hash(seed, "shuffle", keys[at]))


def cut(pages: Sequence[Page], order: Sequence[int], shard_bytes: int) -> list[list[int]]:
    """Cut an order of pages into shards of about equal size, none much over `shard_bytes`."""
    total = sum(pages[at].blocks for at in order) * BLOCK
    count = -(-total // shard_bytes)
    shards: list[list[int]] = [[] for _ in range(count)]
    start = 0
    for at in order:
        shards[start * count // total].append(at)
        start += pages[at].blocks * BLOCK
    return [shard for shard in shards if shard]


def seeded_hash(seed: int, purpose: str, name: str) -> bytes:
    """A hash of a name that is the same everywhere and for ever."""
    return blake2b(f"{seed}/{purpose}/{name}".encode(), digest_size=16).digest()
