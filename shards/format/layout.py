"""Layouts: the box tree of one screen with its canvas size, and the limits of all inputs.

`parse_layout` reads every registered JSON schema; the schemas are in `shards.format.schemas`.
Inputs are untrusted: any fault of a record raises `BadLayout` and no other exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from shards.source_formats import JsonSchema, json_schemas

MAX_SIDE = 32767  # px; box coordinates are stored as int16
MAX_AREA = 10**8  # px
MAX_BOXES = 20_000
MAX_BYTES = 32 << 20  # of one input file or line
MAX_TEXT = 1024  # characters of an id, a label, ...; longer texts are shortened
MAX_DEPTH = 40  # nesting levels drawn as white: value = depth / MAX_DEPTH, clipped to 1
NO_LABEL = "other"

_Number = TypeVar("_Number")


class BadLayout(ValueError):
    """An input that is refused; the message is one plain line that names the fault.

    page_id: id of the refused page, if it is known.
    """

    page_id: str | None = None


@dataclass(frozen=True)
class Layout:
    """The boxes of one screen.

    width, height: canvas in px, 1 to `MAX_SIDE` each and at most `MAX_AREA` px together.
    boxes: (N, 4) array of x0, y0, x1, y1 in absolute canvas px, in preorder, root included. int16
        if all are whole numbers, else float32. Boxes are clipped to the canvas; boxes outside it
        are left out.
    depth: levels of the tree, the root counted.
    meta: `id`, `template`, `source`, `license`, `viewport`, `url_path` if the record has them;
        always `label` (default `NO_LABEL`); and, if there are any, `skipped`, the number of nodes
        left out because they are invisible or have no area, and `shortened`, the number of texts
        that were longer than `MAX_TEXT`.
    """

    width: int
    height: int
    boxes: np.ndarray
    depth: int
    meta: dict[str, Any]


def scaled_height(width: _Number, height: _Number, to_width: int) -> _Number:
    """Return the rows of a page scaled to `to_width`: max(1, floor(height * to_width/width + 0.5)).

    Exact integer arithmetic, so that builder, reader and device give the same number. `width` and
    `height` are whole numbers: ints, numpy integers of any size, or integer tensors.
    """
    if isinstance(height, (np.ndarray, np.generic)):
        # A damaged index may hold a width of 0; `Index.rows` refuses it when the page is read.
        width = np.maximum(np.asarray(width, np.int64), 1)
        height = np.asarray(height, np.int64)
    rows = (2 * height * to_width + width) // (2 * width)
    return rows + (rows < 1)


def schema_of(record: object) -> JsonSchema:
    """Return the schema of a decoded JSON record; raise `BadLayout` if none recognises it.

    A list is recognised as the record `{"elements": list}`.
    """
    record = as_record(record)
    if not isinstance(record, dict):
        raise BadLayout(f"not a layout: {describe_value(record)} where an object was expected")
    for schema in json_schemas():
        if schema.recognises(record):
            return schema
    names = ", ".join(schema.name for schema in json_schemas())
    raise BadLayout(f"not a layout: its keys fit none of the schemas {names}")


def as_record(value: object) -> object:
    """Return a list that is not empty as the record `{"elements": list}`, else the value itself."""
    return {"elements": value} if isinstance(value, list) and value else value


def parse_layouts(record: object) -> list[Layout | BadLayout]:
    """Return the pages in one decoded JSON record of any registered schema.

    Most schemas hold a single page. Of several pages, one that is refused is a `BadLayout` in the
    list. Raises `BadLayout` as `parse_layout` does if no page can be read.
    """
    parsed = schema_of(record).parse(as_record(record))
    return parsed if isinstance(parsed, list) else [parsed]


def parse_layout(record: object) -> Layout:
    """Return the layout, or the first of several, in one decoded JSON record.

    Raises `BadLayout` for a record of no registered schema, for a canvas or a number of boxes over
    the limits, for boxes that are not four numbers, and if no box is visible on the canvas.
    """
    pages = parse_layouts(record)
    for page in pages:
        if isinstance(page, Layout):
            return page
    raise pages[0]


def describe_value(value: object) -> str:
    """Return a short and printable description of an untrusted value, for an error message."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**15:
        return "too large"
    if isinstance(value, (int, float)):
        return f"{value:g}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "...")
    return "a list" if isinstance(value, list) else "an object"
