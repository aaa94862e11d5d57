"""A single file as a batch of one page, made in the same way as the pages of shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from shards.building.sources import Found, FoundFile, Reject, read_inputs, read_whole
from shards.errors import UserError
from shards.format.index import RECORD, Index, Shard
from shards.format.layout import (
    MAX_AREA,
    MAX_BYTES,
    BadLayout,
    decode_json,
    parse_layout,
    scaled_height,
)
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles
from shards.source_formats import file_format_of


def read_page(path: Path, *, width: int, max_height: int, stride: int) -> Batch:
    """Return a layout or a wireframe picture as a batch of one page.

    Args:
        path: file of a registered format (`shards.source_formats`): JSON of any schema, JSON lines
            (the first layout), or a PNG whose grey values are nesting depth / 40 of white.
        width: pixels that the page is scaled to.
        max_height: rows kept of the page, from the top.
        stride: the padded height is a multiple of it.

    Raises UserError naming the file and its fault.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a regular file")  # opening a pipe would block
    try:
        page = _SinglePage(path, width)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except BadLayout as error:
        raise UserError(f"{path}: {error}") from error
    ladder = height_ladder(max_height, stride)
    collator = Collator(page, width=width, max_height=max_height, ladder=ladder, seed=0)
    first = np.zeros(1, np.int64)
    return collator.batch(first, first, training=False)


class _SinglePage(ShardFiles):
    """Source of one page for `Collator`: an index of one row, and its decoded content."""

    def __init__(self, path: Path, to_width: int) -> None:
        data = _read_first(path)
        file_format = file_format_of(path.name, data)
        parsed = parse_layout(decode_json(data)) if file_format is None else file_format.parse(data)
        if isinstance(parsed, np.ndarray):
            (height, width), count, self._content = parsed.shape, 0, parsed
            # A picture of 1 x 32,767 px scaled to `to_width` would take gigabytes.
            if scaled_height(width, height, to_width) * to_width > MAX_AREA:
                raise BadLayout(
                    f"{width} x {height} px scaled to a width of {to_width} px is more than "
                    f"{MAX_AREA} px"
                )
        else:
            width, height, count = parsed.width, parsed.height, len(parsed.boxes)
            self._content = parsed.boxes
        store = "png" if isinstance(parsed, np.ndarray) else "boxes"
        table = np.zeros(1, RECORD)
        table["width"], table["height"], table["boxes"] = width, height, count
        shard = Shard(path.name, "val", samples=1, bytes=len(data), sha256="", first=0)
        super().__init__(Index(path.parent, {"store": store}, [shard], [""], [""], table))

    def array(
        self, sample_id: int, record: np.void, name: str, decode: Callable[[bytes], np.ndarray]
    ) -> np.ndarray:
        return self._content


def _read_first(path: Path) -> bytes:
    """Return the bytes of the only, or first, layout or picture of a file."""
    item = next(read_inputs(Found([FoundFile(path, path.stem)], [], 0)))
    if isinstance(item, Reject):
        raise BadLayout(item.reason)
    data = read_whole(path) if item.line_bytes is None else item.line_bytes
    if len(data) > MAX_BYTES:
        raise BadLayout(f"longer than {MAX_BYTES} bytes")
    return data
