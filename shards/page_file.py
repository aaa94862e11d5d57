"""A single file as a batch of one page, made as the pages of shards are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from shards.building.pages import decode_json
from shards.building.sources import Found, FoundFile, Reject, read_inputs, read_whole
from shards.errors import UserError
from shards.format.index import RECORD, Index, Shard
from shards.format.layout import MAX_AREA, MAX_BYTES, BadLayout, parse_layout, scaled_height
from shards.format.png import SIGNATURE, decode_png
from shards.format.tar import BOXES, PNG
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles


def read_page(path: Path, *, width: int, max_height: int, stride: int) -> Batch:
    """A layout or a wireframe picture as a batch of one page, of a tall one the top.

    Args:
        path: JSON of any of the schemas of `shards.format.layout`, JSON lines (the first layout),
            or a PNG whose grey values are nesting depth / 40 of white.
        width: pixels that the page is scaled to.
        max_height: rows kept of it.
        stride: the padded height is a multiple of it.

    Raises UserError naming the file and what is wrong with it.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a regular file")  # opening a pipe would wait for ever
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
    """What `Collator` asks of shards, of one file: an index of one row, and its members."""

    def __init__(self, path: Path, to_width: int) -> None:
        data = _read_first(path)
        if path.suffix.lower() == ".png" or data.startswith(SIGNATURE):
            height, width = decode_png(data).shape
            # A picture one pixel wide and 32,767 high would be scaled to gigabytes.
            if scaled_height(width, height, to_width) * to_width > MAX_AREA:
                raise BadLayout(f"{width} x {height} px drawn {to_width} px wide is too large")
            store, count, self._members = "png", 0, {PNG: data}
        else:
            layout = parse_layout(decode_json(data))
            stream = io.BytesIO()
            np.save(stream, layout.boxes, allow_pickle=False)
            width, height, count = layout.width, layout.height, len(layout.boxes)
            store, self._members = "boxes", {BOXES: stream.getvalue()}
        table = np.zeros(1, RECORD)
        table["width"], table["height"], table["boxes"] = width, height, count
        shard = Shard(path.name, "val", samples=1, bytes=len(data), sha256="", first=0)
        super().__init__(Index(path.parent, {"store": store}, [shard], [""], [""], table))

    def members_at(self, sample_id: int, record: np.void) -> dict[str, bytes]:
        return self._members


def _read_first(path: Path) -> bytes:
    """The bytes of a file's only, or first, layout or picture."""
    item = next(read_inputs(Found([FoundFile(path, path.stem)], [], 0)))
    if isinstance(item, Reject):
        raise BadLayout(item.reason)
    data = read_whole(path) if item.line_bytes is None else item.line_bytes
    if len(data) > MAX_BYTES:
        raise BadLayout(f"longer than {MAX_BYTES} bytes")
    return data
