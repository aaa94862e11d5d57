"""Corpus of bad files of every kind that the programs read; the files are always the same.

    python -m tests.corpus DIR

writes them to a folder, to try them by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOO_DEEP = 100_000


@dataclass(frozen=True)
class BadFile:
    """A file or folder that must be refused with one line that contains `message`."""

    path: Path
    message: str


def put(tree: Any, keys: tuple, value: Any) -> Any:
    """Return a copy of a tree with the value at a path of keys replaced; `...` removes it."""
    tree = json.loads(json.dumps(tree))
    inner = tree
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return tree


def damaged_copies(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` truncated copies, and `count` copies with one byte that is not UTF-8."""
    for number in range(count):
        at = len(data) * number // count
        yield f"cut-{at}", data[:at]
        yield f"flip-{at}", data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :]


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> list[BadFile]:
    """Write files to a new folder."""
    folder.mkdir(parents=True)
    bad_files = []
    for name, data in files:
        (folder / name).write_bytes(data)
        bad_files.append(BadFile(folder / name, name))
    return bad_files
