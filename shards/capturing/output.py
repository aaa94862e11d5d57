"""The file of captured layouts: JSON lines, each in a gzip member of its own.

A layout is written by one call, so after a kill the file consists of whole layouts and every reader
of gzip reads it. Capture goes on with the pages that are not in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.atomic_files import writing
from shards.errors import UserError
from shards.format.layout import MAX_BYTES

OUTPUT_SUFFIXES = (".jsonl.gz", ".jsonl")
_PIECE = 1 << 20  # bytes


class OutputFile:
    """A file of layouts that grows by whole layouts. Used as a context; locked within it.

    Attributes:
        ids: the ids of the layouts in the file.
    """

    def __init__(self, path: Path) -> None:
        if not path.name.lower().endswith(OUTPUT_SUFFIXES):
            raise UserError(f"{path}: --out must end in {' or '.join(OUTPUT_SUFFIXES)}")
        self.ids: set[str] = set()
        self._path = path
        self._is_gzip = path.name.lower().endswith(".gz")
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> OutputFile:
        """Open and lock the file, read its ids, and cut off a layout that is not whole.

        Raises UserError if another capture writes the file, or it holds anything but layouts.
        """
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b", buffering=0)
        try:
            self._lock()
            self._end = self._read_ids()
            with writing(self._path):
                self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Sync the file to disk; one without a layout is removed."""
        if self._end == 0:
            self._path.unlink(missing_ok=True)
        else:
            with writing(self._path):
                os.fsync(self._file.fileno())
        self._file.close()

    def append(self, record: dict) -> None:
        """Write a layout; raise CannotWrite, with the file as it was, if it does not fit."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        data = gzip.compress(line, mtime=0) if self._is_gzip else line
        with writing(self._path):
            try:
                rest = memoryview(data)
                while rest:  # one call, except on a disk that is nearly full
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end)
                raise
        self._end += len(data)
        self.ids.add(record["id"])

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self._path}: another capture writes it; wait for it, or choose another --out"
            ) from None

    def _read_ids(self) -> int:
        """Collect the ids; return the length of the part that consists of whole layouts."""
        self._file.seek(0)
        end = 0
        pending: set[str] = set()  # of a gzip member that has not ended
        for text, offset in _members(self._file) if self._is_gzip else _lines(self._file):
            lines = text.splitlines()
            ids = [_id_of(line) for line in lines if line.strip()]
            if None in ids:
                raise UserError(
                    f"{self._path}: holds something else than captured layouts; choose another "
                    "--out"
                )
            pending.update(ids)
            if offset is not None:
                self.ids |= pending
                pending.clear()
                end = offset
        size = os.fstat(self._file.fileno()).st_size
        if end == 0 and size > 0:
            raise UserError(
                f"{self._path}: holds no whole layout; delete it or choose another --out"
            )
        return end


def _id_of(line: bytes) -> str | None:
    """Return the id of a line; None if it is no captured layout."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_layout = isinstance(record, dict) and isinstance(record.get("id"), str) and "r" in record
    return record["id"] if is_layout else None


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each whole line and the offset of its end."""
    end = 0
    with open(file.fileno(), "rb", closefd=False) as reader:
        while line := reader.readline(MAX_BYTES):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield line, end


def _members(file: BinaryIO) -> Iterator[tuple[bytes, int | None]]:
    """Yield the content of each gzip member and the offset of its end.

    A member of many layouts, as `gzip` writes it, is read in pieces of whole lines; the offset is
    None until the member ends.
    """
    offset = 0
    data = rest = b""
    unzip = zlib.decompressobj(wbits=31)
    while True:
        if not data:
            data = file.read(_PIECE)
            offset += len(data)
            if not data:
                return
        try:
            text = rest + unzip.decompress(data, _PIECE)
        except zlib.error:
            return
        if unzip.eof:
            data, rest = unzip.unused_data, b""
            unzip = zlib.decompressobj(wbits=31)
            yield text, offset - len(data)
            continue
        data = unzip.unconsumed_tail
        lines, newline, rest = text.rpartition(b"\n")
        if len(rest) > MAX_BYTES:
            return
        yield lines + newline, None
