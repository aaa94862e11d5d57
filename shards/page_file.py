"""A single file as a batch of one page, made in the same way as the pages of shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from shards.building.contents import Picture, read_contents
from shards.building.inputs import Reject
from shards.building.sources import Found, FoundFile, read_inputs
from shards.errors import UserError
from shards.format.index import RECORD, Index, Shard
from shards.format.layout import MAX_AREA, BadLayout, Layout, scaled_height
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles
from shards.source_formats import AUTO, suffixes_of


def read_page(path: Path, *, width: int, max_height: int, stride: int) -> Batch:
    """Return a layout or a wireframe picture as a batch of one page.

    Args:
        path: file of a registered format (`shards.source_formats`): JSON of any schema, a picture
            whose grey values are nesting depth / 40 of white, ... Of JSON lines, tars and other
            files with several pages, the first page is read.
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
        page = _first_page(path)
        if isinstance(page, Picture):
            (height, width), count, self._content = page.gray.shape, 0, page.gray
            # A picture of 1 x 32,767 px scaled to `to_width` would take gigabytes.
            if scaled_height(width, height, to_width) * to_width > MAX_AREA:
                raise BadLayout(
                    f"{width} x {height} px scaled to a width of {to_width} px is more than "
                    f"{MAX_AREA} px"
                )
        else:
            width, height, count = page.width, page.height, len(page.boxes)
            self._content = page.boxes
        store = "png" if isinstance(page, Picture) else "boxes"
        table = np.zeros(1, RECORD)
        table["width"], table["height"], table["boxes"] = width, height, count
        shard = Shard(path.name, "val", samples=1, bytes=1, sha256="", first=0)
        super().__init__(Index(path.parent, {"store": store}, [shard], [""], [""], table))

    def array(
        self, sample_id: int, record: np.void, name: str, decode: Callable[[bytes], np.ndarray]
    ) -> np.ndarray:
        return self._content


def _first_page(path: Path) -> Layout | Picture:
    """Return the only, or first, layout or picture of a file."""
    item = next(read_inputs(Found([FoundFile(path, path.stem)], suffixes_of(AUTO))))
    if isinstance(item, Reject):
        raise BadLayout(item.reason)
    pages = read_contents(item)
    for page in pages:
        if not isinstance(page, BadLayout):
            return page
    raise pages[0]
