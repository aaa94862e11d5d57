"""Corpus of bad files of every kind that is read; the files are the same every time.

    python -m tests.corpus DIR

writes them, to try them by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOO_DEEP = 100_000


@dataclass(frozen=True)
class Bad:
    """A file, or a folder of files, that must be refused in a line that holds `says`."""

    path: Path
    says: str


def put(tree: Any, place: tuple, value: Any) -> Any:
    """Return a copy of a tree with another value at a place; `...` removes the entry."""
    tree = json.loads(json.dumps(tree))
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return tree


def harmed(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` truncated copies, and `count` copies with one byte that is not UTF-8."""
    for number in range(count):
        at = len(data) * number // count
        yield f"cut-{at}", data[:at]
        yield f"flip-{at}", data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[Bad]:
    """Write files to a new folder."""
    folder.mkdir(parents=True)
    found = []
    for name, data in files:
        (folder / name).write_bytes(data)
        found.append(Bad(folder / name, name))
    return found
