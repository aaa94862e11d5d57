"""The members of a sample, from the bytes where the index says they lie."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.index import BLOCK, DamagedShards

JSON, BOXES, PNG = "json", "boxes.npy", "png"  # what follows the key and a dot in a member's name


def read_members(data: bytes, path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of consecutive members of a plain tar.

    Args:
        data: whole tar entries, headers and padding included.
        path: the shard, for messages.

    Raises DamagedShards for anything but regular files that lie within `data`.
    """
    position = 0
    while position + BLOCK <= len(data):
        header = data[position : position + BLOCK]
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        digits = header[124:136].strip(b"\0 ")
        if header[156:157] not in (b"0", b"\0") or not digits.isdigit():
            raise DamagedShards(f"{path}: {name!r} is not a regular file of a plain tar")
        size = int(digits, 8)
        position += BLOCK
        if position + size > len(data):
            raise DamagedShards(f"{path}: {name!r} is longer than its sample")
        key, _, extension = name.partition(".")
        yield key, extension, data[position : position + size]
        position += -(-size // BLOCK) * BLOCK


def read_boxes(data: bytes) -> np.ndarray:
    """The boxes of a `boxes.npy` member, float32 (N, 4); nothing is ever unpickled.

    Raises ValueError when that is not what it holds.
    """
    boxes = np.load(io.BytesIO(data), allow_pickle=False)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes of shape {boxes.shape} are not (N, 4)")
    return boxes.astype(np.float32)
