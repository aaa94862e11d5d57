"""Files of the pages that a command makes: pictures, layouts and SVG."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shards.atomic_files import atomic_stream, write_atomic, writing
from shards.format.png import encode_png
from vaetrain.layouts.records import layout_record
from vaetrain.layouts.svg import svg_of

_MAX_KEY = 100  # characters of a key in a file name


def file_name(number: int, count: int, key: str) -> str:
    """Return a file name without suffix for a page of shards: its number, then its key.

    Numbers have the same length for all `count` pages. The key is untrusted: characters other than
    ASCII letters, digits, "_", "-" and "." become "_", and it is cut at 100 characters. Names are
    different even if keys are not, as the numbers are.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", key[:_MAX_KEY])
    return f"{number:0{len(str(count - 1))}}-{safe}"


class PageFiles(contextlib.AbstractContextManager):
    """Writer of pages, one after the other; memory does not grow with their number.

    Every file is written under a temporary name and renamed when it is complete: that of the
    layouts at the end, and only if all pages were written.
    """

    def __init__(
        self,
        pictures: str | Path | None = None,
        layouts: Path | None = None,
        svg: str | Path | None = None,
    ) -> None:
        """Create the folders.

        Args:
            pictures: folder for one PNG a page, whose grey value is the nesting depth / 40.
            layouts: file for one layout a line, see `layout_record`.
            svg: folder for one SVG a page.
        """
        self._pictures, self._svg = (folder and Path(folder) for folder in (pictures, svg))
        for folder in filter(None, (self._pictures, self._svg)):
            folder.mkdir(parents=True, exist_ok=True)
        self._layouts_path = layouts
        self._open = contextlib.ExitStack()
        self._layouts = layouts and self._open.enter_context(atomic_stream(layouts))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def write(self, name: str, page: np.ndarray, texts: dict[str, Any]) -> None:
        """Write the files of a page; raise CannotWrite if the disk is full or read-only.

        Args:
            name: of its files, without suffix.
            page: float (h, w), nesting depth / 40.
            texts: `id`, `label`, ... of the layout.
        """
        if self._pictures is not None:
            grey = (np.nan_to_num(page).clip(0, 1) * 255).round().astype(np.uint8)
            _write(self._pictures / f"{name}.png", encode_png(grey))
        if self._layouts is None and self._svg is None:
            return
        record = layout_record(page, texts)
        if self._svg is not None:
            _write(self._svg / f"{name}.svg", svg_of(record))
        if self._layouts is not None:
            line = json.dumps(record, separators=(",", ":")) + "\n"
            with writing(self._layouts_path):
                self._layouts.write(line.encode())


def _write(path: Path, content: str | bytes) -> None:
    with writing(path):
        write_atomic(path, content)
