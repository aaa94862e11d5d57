"""Members of a sample, parsed from its bytes in a tar; a malformed sample is refused here."""

from __future__ import annotations

import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.errors import DamagedShards
from shards.format.index import BLOCK

JSON, BOXES, PNG = "json", "boxes.npy", "png"  # member names are key.extension

_OCTAL = re.compile(rb"[0-7]+")


def read_members(data: bytes, path: Path | str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, extension and content of consecutive members of a plain tar.

    Args:
        data: complete tar entries, headers and padding included.
        path: the shard, for messages.

    Raises DamagedShards for members other than regular files within `data`, and for names that
    lead out of a folder: a key has no dot, so a `..` could only follow a slash, and the name prefix
    of POSIX, from byte 345 of a header on, must be empty.
    """
    position = 0
    while position + BLOCK <= len(data):
        header = data[position : position + BLOCK]
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        digits = header[124:136].strip(b"\0 ")
        is_file = header[156:157] in (b"0", b"\0") and not header[345:500].strip(b"\0")
        if not is_file or not _OCTAL.fullmatch(digits):
            raise DamagedShards(f"{path}: {name!r} is not a regular file of a plain tar")
        size = int(digits, 8)
        position += BLOCK
        if position + size > len(data):
            raise DamagedShards(f"{path}: {name!r} is larger than its sample")
        key, _, extension = name.partition(".")
        leads_out = not key or key.startswith("/") or key.endswith("/") or "/" in extension
        if leads_out or not name.isprintable():
            raise DamagedShards(f"{path}: {name!r} is not a valid name of a sample's file")
        yield key, extension, data[position : position + size]
        position += -(-size // BLOCK) * BLOCK


def read_boxes(data: bytes) -> np.ndarray:
    """Return the boxes of a `boxes.npy` member, int16 or float32 (N, 4), without unpickling.

    Raises ValueError for any other content.
    """
    start = 10 + int.from_bytes(data[8:10], "little")
    count, dtype = _boxes_header(data[:start])
    if count * 4 * dtype.itemsize != len(data) - start:
        raise ValueError(f"{count} boxes, but {len(data) - start} bytes of data")
    boxes = np.frombuffer(data, dtype, offset=start).reshape(count, 4)
    if dtype.kind == "f" and not np.isfinite(boxes).all():
        raise ValueError("boxes are not finite numbers")
    return boxes


# Headers differ only in the number of boxes, and parsing one is the slowest step of reading boxes.
@functools.lru_cache(maxsize=4096)
def _boxes_header(header: bytes) -> tuple[int, np.dtype]:
    stream = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("boxes are not in version 1.0 of the npy format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except tokenize.TokenError:  # numpy raises it for a missing bracket in the header
        raise ValueError("the header of the boxes is damaged") from None
    if len(shape) != 2 or shape[1] != 4 or dtype.str not in ("<i2", "<f4"):
        raise ValueError(
            f"boxes of shape {shape} and type {dtype}, must be (N, 4) of int16 or float32"
        )
    return shape[0], dtype
