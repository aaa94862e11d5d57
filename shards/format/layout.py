"""Layouts: the box tree of one screen with its canvas size, and the limits of all inputs.

`parse_layout` reads every registered JSON schema; the schemas are in `shards.format.schemas`.
Inputs are untrusted: any fault of a record raises `BadLayout` and no other exception.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from shards.source_formats import JsonSchema, json_schemas

MAX_SIDE = 32767  # px; box coordinates are stored as int16
MAX_AREA = 10**8  # px
MAX_BOXES = 20_000
MAX_BYTES = 32 << 20  # of one input file or line
MAX_TEXT = 500  # characters of an id, a label, ...
MAX_DEPTH = 40  # nesting levels drawn as white: value = depth / MAX_DEPTH, clipped to 1
NO_LABEL = "other"

_Number = TypeVar("_Number")


class BadLayout(ValueError):
    """An input that is refused; the message is one plain line that names the fault."""


@dataclass(frozen=True)
class Layout:
    """The boxes of one screen.

    width, height: canvas in px, 1 to `MAX_SIDE` each and at most `MAX_AREA` px together.
    boxes: (N, 4) array of x0, y0, x1, y1 in absolute canvas px, in preorder, root included. int16
        if all are whole numbers, else float32. Boxes are clipped to the canvas; boxes outside it
        are left out.
    depth: levels of the tree, the root counted.
    meta: `id`, `template`, `source`, `license`, `viewport`, `url_path` if the record has them;
        always `label` (default `NO_LABEL`); and `skipped`, the number of invisible or empty nodes
        left out with their children, if there are any (RICO only).
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


def decode_json(data: bytes) -> object:
    """Decode one JSON value; raise `BadLayout` if the data is not JSON.

    NaN and Infinity are accepted here, so that `parse_layout` can name the box that has them.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise BadLayout("JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise BadLayout("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        fault = "cut off" if error.pos >= len(error.doc.rstrip()) else "invalid"
        raise BadLayout(f"JSON is {fault} at character {error.pos}: {error.msg}") from None
    except ValueError:
        raise BadLayout("JSON has a number of thousands of digits") from None


def schema_of(record: object) -> JsonSchema:
    """Return the schema of a decoded JSON record; raise `BadLayout` if none recognises it."""
    if not isinstance(record, dict):
        raise BadLayout(f"not a layout: {describe_value(record)} where an object was expected")
    for schema in json_schemas():
        if schema.recognises(record):
            return schema
    names = ", ".join(schema.name for schema in json_schemas())
    raise BadLayout(f"not a layout: its keys fit none of the schemas {names}")


def parse_layout(record: object) -> Layout:
    """Return the layout in one decoded JSON record of any registered schema.

    Raises `BadLayout` for anything else, for a canvas or a number of boxes over the limits, and for
    boxes that are not four finite numbers or, except in RICO, have no positive size.
    """
    return schema_of(record).parse(record)


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
