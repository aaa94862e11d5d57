"""Spool files: where worker processes leave what they have read until its place is known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where something lies: the name of a spool file, and the first byte in it."""

    file: str
    offset: int


class Spools:
    """Reads from all the spool files of a folder; a context manager that closes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptors: dict[str, int] = {}

    def __enter__(self) -> Spools:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, place: Place, size: int) -> bytes:
        """`size` bytes from `place` on."""
        if place.file not in self._descriptors:
            self._descriptors[place.file] = os.open(self._folder / place.file, os.O_RDONLY)
        return os.pread(self._descriptors[place.file], size, place.offset)
