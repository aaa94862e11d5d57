"""Building blocks of the JSON schemas: checked numbers, box trees, and the layout made of them.

Walks are iterative, so a deeply nested tree cannot exhaust the stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from shards.format.layout import (
    MAX_AREA,
    MAX_BOXES,
    MAX_SIDE,
    NO_LABEL,
    BadLayout,
    Layout,
    describe_value,
)
from shards.format.metadata import metadata_of

Box = tuple[float, float, float, float]
ReadBox = Callable[[dict, float, float], Box | None]
"""Returns x0, y0, x1, y1 of a node in a parent at (x, y); None: skip the node with its children.

A node whose box has no area, or NaN for a number that is absent, is skipped and its children are
kept: browsers and devices write such nodes on most pages.
"""

NO_BOX: Box = (math.nan, math.nan, math.nan, math.nan)

_MAX_COORDINATE = 10**9  # px; a coordinate beyond it is refused instead of clipped


def layout_of_tree(
    record: dict,
    root: object,
    *,
    read_box: ReadBox,
    children_key: str,
    canvas: tuple[int, int],
    origin: tuple[float, float] = (0, 0),
    is_root_a_node: bool = True,
) -> Layout:
    """Return the layout of a tree of boxes.

    Args:
        record: holds the metadata: id, label, template, source, license, viewport, url_path.
        root: first node of the tree.
        read_box: gives the box of a node.
        children_key: key of a node's list of children.
        canvas: width and height in px, of `canvas_size`.
        origin: point of the tree's coordinates that becomes (0, 0) of the canvas.
        is_root_a_node: False for a root without a box that only holds the nodes at the top; it is
            not counted as skipped.

    Raises `BadLayout` naming the box, counted in preorder from 0, and its fault.
    """
    boxes, levels, skipped = _walk(root, read_box, children_key, 0 if is_root_a_node else -1)
    width, height = canvas
    corners = np.array(boxes, np.float64).reshape(-1, 4) - np.array([*origin, *origin])
    corners = corners.clip(0, [width, height, width, height])
    corners = corners.astype(np.int16 if (corners == np.floor(corners)).all() else np.float32)
    inside = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    if not inside.any():
        raise BadLayout("no visible box on the canvas")
    meta = metadata_of(record)
    meta.setdefault("label", NO_LABEL)
    if skipped:
        meta["skipped"] = skipped
    depth = int(np.array(levels)[inside].max())
    return Layout(width, height, corners[inside], depth, meta)


def _walk(
    root: object, read_box: ReadBox, key: str, first: int
) -> tuple[list[Box], list[int], int]:
    """Return the boxes of a tree in preorder, their levels, and the number of skipped nodes.

    first: number of the root; -1 for one that is not counted.
    """
    boxes: list[Box] = []
    levels: list[int] = []
    number = skipped = first
    stack: list[tuple[object, float, float, int]] = [(root, 0, 0, 1)]
    while stack:
        node, left, top, level = stack.pop()
        if number >= MAX_BOXES:
            raise BadLayout(f"more than {MAX_BOXES} boxes")
        try:
            if not isinstance(node, dict):
                raise BadLayout(f"{describe_value(node)} where an object was expected")
            box = read_box(node, left, top)
            children = _children(node, key)
        except BadLayout as error:
            raise BadLayout(f"box {number}: {error}") from None
        number += 1
        if box is None:
            skipped += 1
            continue
        if has_area(box):
            boxes.append(box)
            levels.append(level)
            level += 1
        else:
            skipped += 1
        x, y = (left if math.isnan(box[0]) else box[0]), (top if math.isnan(box[1]) else box[1])
        stack.extend((child, x, y, level) for child in reversed(children))
    return boxes, levels, skipped


def _children(node: dict, key: str) -> list:
    children = node.get(key)
    if children is None:
        return []
    if not isinstance(children, list):
        raise BadLayout(f'"{key}" is {describe_value(children)}, not a list')
    # RICO's dumps hold null for a view that disappeared while the dump was made.
    return [child for child in children if child is not None]


def canvas_size(width: object, height: object) -> tuple[int, int]:
    """Return a canvas' width and height rounded to whole px; raise `BadLayout` over the limits."""
    sides = []
    for name, value in (("width", width), ("height", height)):
        check_number(f"canvas {name}", value)
        side = max(1, int(value + 0.5))
        if value <= 0 or side > MAX_SIDE:
            raise BadLayout(f"canvas {name} is {describe_value(value)}, must be in 1..{MAX_SIDE}")
        sides.append(side)
    if sides[0] * sides[1] > MAX_AREA:
        raise BadLayout(f"canvas is {sides[0]} x {sides[1]} px, more than {MAX_AREA} px")
    return sides[0], sides[1]


def has_area(box: Box) -> bool:
    """Return whether a box has a positive width and height; False for NaN."""
    return box[2] > box[0] and box[3] > box[1]


def clipped(box: Box, clip: Box | None) -> Box:
    """Return the part of a box inside another one, which may have no area; None: the whole box."""
    if clip is None or math.isnan(sum(box)):
        return box
    x0, y0, x1, y1 = box
    return max(x0, clip[0]), max(y0, clip[1]), min(x1, clip[2]), min(y1, clip[3])


def four_numbers(values: object, names: tuple[str, str, str, str]) -> Box:
    """Return a list of four numbers as a tuple; None, for a box that is absent, is `NO_BOX`.

    A number that is null or not finite becomes NaN. Raises `BadLayout` naming a wrong one.
    """
    if values is None:
        return NO_BOX
    if not isinstance(values, list) or len(values) != 4:
        raise BadLayout(f"box is {describe_value(values)}, must be four numbers {', '.join(names)}")
    first, second, third, fourth = map(number_or_nan, names, values)
    return first, second, third, fourth


def number_or_nan(name: str, value: object) -> float:
    """Return a number of px, and NaN for null and numbers that are not finite.

    `JSON.stringify` of a browser writes NaN and Infinity as null. Raises `BadLayout` for other
    types, and for numbers beyond the bounds.
    """
    if value is None or (type(value) is float and not math.isfinite(value)):
        return math.nan
    check_number(name, value)
    return value


def check_number(name: str, value: object) -> None:
    """Raise `BadLayout` if a value is not a finite number of px within bounds."""
    if type(value) not in (int, float):  # bool is a subclass of int
        raise BadLayout(f"{name} is {describe_value(value)}, not a number")
    if not -_MAX_COORDINATE <= value <= _MAX_COORDINATE:  # refuses NaN, too
        raise BadLayout(f"{name} is {describe_value(value)}, out of range")
