"""Spool files: hold the bytes of pages from reading them until their shard is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SpoolOffset:
    """A place in a spool file: the file's name, and an offset in bytes."""

    file: str
    offset: int


class Spools:
    """Reader of all spool files of a folder; a context manager that closes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptors: dict[str, int] = {}

    def __enter__(self) -> Spools:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, start: SpoolOffset, size: int) -> bytes:
        """Return `size` bytes from `start` on."""
        if start.file not in self._descriptors:
            self._descriptors[start.file] = os.open(self._folder / start.file, os.O_RDONLY)
        return os.pread(self._descriptors[start.file], size, start.offset)
