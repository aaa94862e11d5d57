"""A measured page as a record of the compact schema, see `shards.format.schemas`."""

from __future__ import annotations

import math
from typing import Any

from shards.capturing.targets import Target
from shards.format.layout import MAX_BOXES, BadLayout, describe_value, parse_layout

MIN_SIDE = 3  # px; thinner boxes are left out, as in the sample
MAX_LEVELS = 200  # of the tree; boxes below are put on the last level, so that JSON can be read
KINDS = frozenset(
    (
        *("nav", "header", "footer", "main", "aside", "section", "article", "form", "table"),
        *("row", "cell", "list", "item", "heading", "text", "label", "link", "button", "input"),
        *("textarea", "select", "checkbox", "radio", "image", "video", "canvas", "frame"),
        *("figure", "divider", "progress", "tab", "menu", "dialog"),
    )
)

Corners = tuple[int, int, int, int]


def page_id(target: Target, width: int) -> str:
    """Return the id of a page at one width of the window."""
    return f"{target.address}-{width}"


def make_record(target: Target, width: int, walked: object) -> dict[str, Any]:
    """Return the record of a page.

    Args:
        target: the page.
        width: width of the window, px.
        walked: value of `walk` in `walker.js`.

    A box thinner than `MIN_SIDE` px is left out, one equal to its parent's within 1 px is merged
    into it; their children get the nearest box above as parent. Raises BadLayout if the page cannot
    be used: more than `MAX_BOXES` boxes, none but the page itself, or no value of `walk`.
    """
    height, rows = _checked(walked, width)
    root: dict[str, Any] = {"b": [0, 0, width, height], "t": "page"}
    nodes: list[tuple[dict, Corners, int]] = [(root, (0, 0, width, height), 1)]
    node_of: list[int] = []  # by row of the walk: row of `nodes`
    parent_of = [-1]  # by row of `nodes`
    for row in rows:
        parent, kind, corners = _read_row(row, len(node_of))
        above = 0 if parent < 0 else node_of[parent]
        if nodes[above][2] >= MAX_LEVELS:
            above = parent_of[above]
        node, outer, level = nodes[above]
        x0, y0, x1, y1 = corners
        if x1 - x0 < MIN_SIDE or y1 - y0 < MIN_SIDE:
            node_of.append(above)
            continue
        if all(abs(a - b) <= 1 for a, b in zip(corners, outer, strict=True)):
            if kind:
                node.setdefault("t", kind)
            node_of.append(above)
            continue
        inner: dict[str, Any] = {"b": [x0 - outer[0], y0 - outer[1], x1 - x0, y1 - y0]}
        if kind:
            inner["t"] = kind
        node.setdefault("c", []).append(inner)
        node_of.append(len(nodes))
        parent_of.append(above)
        nodes.append((inner, corners, level + 1))
        if len(nodes) > MAX_BOXES:
            raise BadLayout(f"more than {MAX_BOXES} boxes")
    if len(nodes) == 1:
        raise BadLayout("nothing is visible")
    record = {
        "id": page_id(target, width),
        "source": target.source,
        "template": target.template,
        "url_path": target.url_path,
        "platform": "web",
        "viewport": width,
        "w": width,
        "h": height,
        "n": len(nodes),
        "depth": max(level for _, _, level in nodes),
        "r": root,
    }
    parse_layout(record)  # a record that cannot be built is never written
    return record


def _checked(walked: object, width: int) -> tuple[int, list]:
    """Return the page's height and the rows of its boxes."""
    if not isinstance(walked, dict) or not isinstance(walked.get("boxes"), list):
        raise BadLayout("the walk of the page gave no boxes")
    if walked.get("complete") is not True:
        raise BadLayout(f"more than {describe_value(walked.get('elements'))} elements")
    if walked.get("isBlank") is not False:
        raise BadLayout("nothing is visible")
    height = _number(walked.get("height"))
    if height < 1 or width < 1:
        raise BadLayout(f"page is {width} x {height} px")
    return height, walked["boxes"]


def _read_row(row: object, count: int) -> tuple[int, str | None, Corners]:
    """Return parent, kind and rounded corners of a row, of which `count` rows were before."""
    if not isinstance(row, list) or len(row) != 6:
        raise BadLayout("a box of the walk is not six values")
    parent, *corners, kind = row
    if type(parent) is not int or not -1 <= parent < count:
        raise BadLayout(f"parent of a box is {describe_value(parent)}")
    if kind is not None and not (isinstance(kind, str) and kind in KINDS):
        raise BadLayout(f"kind of a box is {describe_value(kind)}")
    x0, y0, x1, y1 = map(_number, corners)
    return parent, kind, (x0, y0, x1, y1)


def _number(value: object) -> int:
    if type(value) not in (int, float) or not -1e9 < value < 1e9:
        raise BadLayout(f"a coordinate is {describe_value(value)}")
    return math.floor(value + 0.5)
