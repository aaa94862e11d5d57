"""Source files opened as streams of bytes, decompressed if they are gzip."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shards.format.layout import MAX_BYTES, BadLayout

DAMAGED_GZIP = "damaged gzip, truncated or changed"


@contextmanager
def open_source(path: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed if its name ends with .gz or .tgz; the stream has `peek`.

    Raises `OSError`, and `BadLayout` for damaged gzip that is found while the stream is read.
    """
    try:
        if path.name.lower().endswith((".gz", ".tgz")):
            with gzip.open(path) as stream:
                yield stream
        else:
            with path.open("rb") as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BadLayout(DAMAGED_GZIP) from None


def read_whole(path: Path) -> bytes:
    """Return a file's bytes, decompressed; raise `OSError`, or `BadLayout` over `MAX_BYTES`."""
    with open_source(path) as stream:
        return bounded(stream.read(MAX_BYTES + 1))


def unzipped(name: str, data: bytes) -> bytes:
    """Return the content of a member of a tar, decompressed if its name ends with .gz.

    Raises `BadLayout` for damaged gzip, and for more than `MAX_BYTES`.
    """
    if not name.lower().endswith(".gz"):
        return bounded(data)
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            return bounded(stream.read(MAX_BYTES + 1))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BadLayout(DAMAGED_GZIP) from None


def bounded(data: bytes) -> bytes:
    """Return the data; raise `BadLayout` if it is longer than `MAX_BYTES`."""
    if len(data) > MAX_BYTES:
        raise BadLayout(f"longer than {MAX_BYTES} bytes")
    return data
