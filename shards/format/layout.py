"""Layouts: the box tree of one screen, read from any of three JSON schemas.

- compact: ``{"w": W, "h": H, "r": {"b": [x, y, w, h], "c": [...]}}``, x and y relative to the
  parent;
- bounds: ``{"bounds": {"x", "y", "width", "height"}, "children": [...]}``, relative to the parent,
  the root's bounds being the canvas;
- RICO (Deka et al. 2017): ``{"activity": {"root": {"bounds": [x0, y0, x1, y1], "children": [...]}}
  }``, absolute; a bare node of that form, as in RICO's semantic annotations, is read too.

Nothing in a record is trusted: whatever is wrong with it ends in one `BadLayout`, never in another
exception, and every walk is iterative, so that depth is no danger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

MAX_SIDE = 32767  # px; box coordinates are stored as int16
MAX_AREA = 10**8  # px
MAX_BOXES = 20_000
MAX_BYTES = 32 << 20  # of one input file or line
MAX_TEXT = 500  # characters of an id, a label, ...
MAX_DEPTH = 40  # layers at which an image is white: value = depth / MAX_DEPTH, clipped
NO_LABEL = "other"

_FARTHEST = 10**9  # px; a coordinate beyond this is an error, not a far-away box
_TEXTS = ("id", "label", "template", "source", "license", "viewport", "url_path")

_Box = tuple[float, float, float, float]
_Number = TypeVar("_Number")


class BadLayout(ValueError):
    """An input is not a layout; the message is one plain line that says what is wrong."""


@dataclass(frozen=True)
class Layout:
    """The boxes of one screen.

    width, height: canvas in px, 1 to `MAX_SIDE`, at most `MAX_AREA` px together.
    boxes: (N, 4) array of x0, y0, x1, y1 in absolute canvas px, preorder, root included; int16 if
        all are whole, else float32. Clipped to the canvas; boxes wholly outside it are left out.
    depth: levels of the tree, the root counted.
    meta: `id`, `template`, `source`, `license`, `viewport`, `url_path` where the record gives them,
        always a `label` (`NO_LABEL` where there is none), and `skipped`, the number of invisible or
        empty nodes left out with all they contain, where there were any (RICO only).
    """

    width: int
    height: int
    boxes: np.ndarray
    depth: int
    meta: dict[str, Any]


def scaled_height(width: _Number, height: _Number, to_width: int) -> _Number:
    """Rows of a page scaled to `to_width`: max(1, floor(height * to_width / width + 0.5)).

    Exact integer arithmetic, so that builder, reader and device agree to the row. `width` and
    `height` are whole numbers: ints, numpy integers of any size, or integer tensors.
    """
    if isinstance(height, (np.ndarray, np.generic)):
        # A width of 0 is damage; `Index.rows` says so when the page is read.
        width = np.maximum(np.asarray(width, np.int64), 1)
        height = np.asarray(height, np.int64)
    rows = (2 * height * to_width + width) // (2 * width)
    return rows + (rows < 1)


def schema_of(record: object) -> str:
    """Which schema a record has, by its keys: "compact", "bounds" or "rico"; raises `BadLayout`."""
    if not isinstance(record, dict):
        raise BadLayout(f"not a layout: {_show(record)} where an object was expected")
    if "r" in record:
        return "compact"
    if "activity" in record or isinstance(record.get("bounds"), list):
        return "rico"
    if "bounds" in record:
        return "bounds"
    raise BadLayout('not a layout: has none of the keys "r", "bounds", "activity"')


def parse_layout(record: object) -> Layout:
    """Read one decoded JSON record of any of the three schemas.

    Raises `BadLayout` for anything else, for a canvas or a number of boxes over the limits, and for
    boxes that are not four finite numbers or, save in RICO, have no positive size.
    """
    parse = {"compact": _parse_compact, "bounds": _parse_bounds, "rico": _parse_rico}
    return parse[schema_of(record)](record)


def _parse_compact(record: dict) -> Layout:
    canvas = _canvas(record.get("w"), record.get("h"))
    walked = _walk(record["r"], _compact_box, "c")
    return _finish(record, canvas, (0, 0), walked)


def _parse_bounds(record: dict) -> Layout:
    left, top, width, height = _bounds_of(record)
    walked = _walk(record, _bounds_box, "children")
    return _finish(record, _canvas(width, height), (left, top), walked)


def _parse_rico(record: dict) -> Layout:
    root = record
    if "activity" in record:
        activity = record["activity"]
        if not isinstance(activity, dict) or not isinstance(activity.get("root"), dict):
            raise BadLayout('"activity" holds no "root" node')
        root = activity["root"]
    left, top, right, bottom = _four(root.get("bounds"), ("x0", "y0", "x1", "y1"))
    walked = _walk(root, _rico_box, "children")
    name = record.get("activity_name")
    if isinstance(name, str) and record.get("template") is None:
        # Screens of one app are near-alike, as the pages of one template are.
        record = {**record, "template": name.split("/")[0]}
    return _finish(record, _canvas(right - left, bottom - top), (left, top), walked)


@dataclass(frozen=True)
class _Walked:
    boxes: list[_Box]
    levels: list[int]
    skipped: int


def _walk(root: object, read_box: Callable[[dict, float, float], _Box | None], key: str) -> _Walked:
    """Collect the boxes of a tree in preorder; `read_box` gives None for a node to be skipped."""
    boxes: list[_Box] = []
    levels: list[int] = []
    number = skipped = 0
    stack: list[tuple[object, float, float, int]] = [(root, 0, 0, 1)]
    while stack:
        node, left, top, level = stack.pop()
        if number >= MAX_BOXES:
            raise BadLayout(f"more than {MAX_BOXES} boxes")
        try:
            if not isinstance(node, dict):
                raise BadLayout(f"{_show(node)} where an object was expected")
            box = read_box(node, left, top)
            children = _children(node, key)
        except BadLayout as error:
            raise BadLayout(f"box {number}: {error}") from None
        number += 1
        if box is None:
            skipped += 1
            continue
        boxes.append(box)
        levels.append(level)
        stack.extend((child, box[0], box[1], level + 1) for child in reversed(children))
    return _Walked(boxes, levels, skipped)


def _children(node: dict, key: str) -> list:
    children = node.get(key)
    if children is None:
        return []
    if not isinstance(children, list):
        raise BadLayout(f'"{key}" is {_show(children)}, not a list')
    # RICO's dumps hold null where a view was gone before it could be described.
    return [child for child in children if child is not None]


def _compact_box(node: dict, left: float, top: float) -> _Box:
    x, y, width, height = _four(node.get("b"), ("x", "y", "width", "height"))
    return _placed(left + x, top + y, width, height)


def _bounds_of(node: dict) -> _Box:
    bounds = node.get("bounds")
    if not isinstance(bounds, dict):
        raise BadLayout(f'"bounds" is {_show(bounds)}, not an object')
    names = ("x", "y", "width", "height")
    return _four([bounds.get(name) for name in names], names)


def _bounds_box(node: dict, left: float, top: float) -> _Box:
    x, y, width, height = _bounds_of(node)
    return _placed(left + x, top + y, width, height)


def _rico_box(node: dict, left: float, top: float) -> _Box | None:
    if node.get("visible-to-user") is False or node.get("visibility") in ("invisible", "gone"):
        return None
    x0, y0, x1, y1 = _four(node.get("bounds"), ("x0", "y0", "x1", "y1"))
    # A quirk of that dump: views that are laid out but never shown come empty or inverted.
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _placed(x: float, y: float, width: float, height: float) -> _Box:
    for name, value in (("width", width), ("height", height)):
        if value <= 0:
            raise BadLayout(f"{name} is {_show(value)}, must be positive")
    return x, y, x + width, y + height


def _four(values: object, names: tuple[str, str, str, str]) -> _Box:
    if not isinstance(values, list) or len(values) != 4:
        raise BadLayout(f"box is {_show(values)}, must be four numbers {', '.join(names)}")
    for name, value in zip(names, values, strict=True):
        _check_number(name, value)
    return tuple(values)


def _check_number(name: str, value: object) -> None:
    if type(value) not in (int, float):  # a bool is an int, but no number of pixels
        raise BadLayout(f"{name} is {_show(value)}, not a number")
    if not -_FARTHEST <= value <= _FARTHEST:  # false for NaN, too
        raise BadLayout(f"{name} is {_show(value)}, out of range")


def _canvas(width: object, height: object) -> tuple[int, int]:
    sides = []
    for name, value in (("width", width), ("height", height)):
        _check_number(f"canvas {name}", value)
        side = max(1, int(value + 0.5))
        if value <= 0 or side > MAX_SIDE:
            raise BadLayout(f"canvas {name} is {_show(value)}, must be in 1..{MAX_SIDE}")
        sides.append(side)
    if sides[0] * sides[1] > MAX_AREA:
        raise BadLayout(f"canvas is {sides[0]} x {sides[1]} px, over {MAX_AREA} px in all")
    return sides[0], sides[1]


def _finish(
    record: dict, canvas: tuple[int, int], origin: tuple[float, float], walked: _Walked
) -> Layout:
    """Move the boxes to the canvas, clip them, leave out what is outside, pick the type."""
    width, height = canvas
    boxes = np.array(walked.boxes, np.float64).reshape(-1, 4) - np.array([*origin, *origin])
    boxes = boxes.clip(0, [width, height, width, height])
    boxes = boxes.astype(np.int16 if (boxes == np.floor(boxes)).all() else np.float32)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not inside.any():
        raise BadLayout("no visible box on the canvas")
    meta = _meta(record)
    if walked.skipped:
        meta["skipped"] = walked.skipped
    depth = int(np.array(walked.levels)[inside].max())
    return Layout(width, height, boxes[inside], depth, meta)


def _meta(record: dict) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for name in _TEXTS:
        value = record.get(name)
        if value is None or value == "":
            continue
        if type(value) is int and name == "viewport" and 0 <= value <= _FARTHEST:
            meta[name] = value
            continue
        if type(value) is int and abs(value) < 1 << 64:  # ids and classes are often plain numbers
            value = str(value)
        if not isinstance(value, str):
            raise BadLayout(f'"{name}" is {_show(value)}, not a text')
        if len(value) > MAX_TEXT:
            raise BadLayout(f'"{name}" is longer than {MAX_TEXT} characters')
        # JSON can spell lone surrogates, which no file can hold.
        meta[name] = value.encode("utf-8", "replace").decode()
    meta.setdefault("label", NO_LABEL)
    return meta


def _show(value: object) -> str:
    """A value in an error message: short, and safe for whatever a hostile file holds."""
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
