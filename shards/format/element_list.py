"""Lists of the elements of a page, each with its box in px of the page, nested by containment.

- a list of `{"x", "y", "width", "height"}`, alone or as "elements" of an object that may also have
  "width", "height" and the texts of a layout; boxes may lie one key deeper ("bounds", "rect", ...);
- an object of such boxes by number, as the `bb.json.gz` files of WebUI (Wu et al. 2023).

An element lies in the smallest other one that contains it, if no element names a parent.
Elements that do ("parent", "parentId", "parent_id": an id or a place in the list) lie in
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shards.format.box_tree import NO_BOX, Box, canvas_size, has_area, layout_of_tree, number_or_nan
from shards.format.figma import is_figma
from shards.format.layout import MAX_BOXES, BadLayout, Layout, describe_value
from shards.source_formats import register_schema

_SIDES = ("x", "y", "width", "height")
_BOX_KEYS = ("bounds", "rect", "bbox", "box", "boundingBox", "boundingClientRect")
_ID_KEYS = ("id", "nodeId", "backendDOMNodeId")
_PARENT_KEYS = ("parent", "parentId", "parent_id")
_SAMPLED = 8  # elements looked at to recognise a list
_MAIN_SHARE = 0.5  # of the elements whose centres lie in the largest one, if it is the page
_OTHER_SCHEMAS = ("r", "bounds", "activity")


def _is_element_list(record: dict) -> bool:
    if any(key in record for key in _OTHER_SCHEMAS) or is_figma(record):
        return False
    elements = record.get("elements")
    if isinstance(elements, list):
        return any(_has_box(element) for element in elements[:_SAMPLED])
    values = list(record.values())
    are_boxes = all(value is None or isinstance(value, dict) for value in values)
    keys_are_numbers = all(isinstance(key, str) and key.isdecimal() for key in record)
    return are_boxes and keys_are_numbers and any(map(_has_box, values[:_SAMPLED]))


def _has_box(element: object) -> bool:
    # One that has children is a tree, and not an element of a list.
    is_flat = isinstance(element, dict) and not isinstance(element.get("children"), list)
    return is_flat and _sides_of(element) is not None


def _sides_of(element: dict) -> dict | None:
    """Return the object that has the sides of an element; None if there is none."""
    inner = [element.get(key) for key in _BOX_KEYS]
    for place in (element, *inner):
        if isinstance(place, dict) and all(side in place for side in _SIDES):
            return place
    return None


@register_schema("elements", recognises=_is_element_list)
def parse_elements(record: dict) -> Layout:
    """Return the layout of a list of elements.

    The canvas is the "width" and "height" of the record. Without them it is the largest element, if
    most elements lie in it, and else reaches from (0, 0) to the right and lower end of all.
    """
    elements = record.get("elements")
    if not isinstance(elements, list):
        elements, record = [{"id": key, **(box or {})} for key, box in record.items()], {}
    if len(elements) > MAX_BOXES:
        raise BadLayout(f"more than {MAX_BOXES} boxes")
    boxes = [_box_of(number, element) for number, element in enumerate(elements)]
    shown = [number for number, box in enumerate(boxes) if has_area(box)]
    if not shown:
        raise BadLayout("no element has an area")
    left, top, width, height = _canvas(record, np.array([boxes[n] for n in shown], np.float64))
    parents = _stated_parents(elements) or _containers(boxes, shown)
    nodes: list[dict[str, Any]] = [{"box": box, "children": []} for box in boxes]
    root: dict[str, Any] = {"box": NO_BOX, "children": []}
    for number, parent in enumerate(parents):
        (root if parent is None else nodes[parent])["children"].append(nodes[number])
    is_size = isinstance(record.get("viewport"), dict)
    return layout_of_tree(
        {**record, "viewport": None} if is_size else record,
        root,
        read_box=lambda node, x, y: node["box"],
        children_key="children",
        canvas=canvas_size(width, height),
        origin=(left, top),
        is_root_a_node=False,
    )


def _box_of(number: int, element: object) -> Box:
    """Return x0, y0, x1, y1 of an element; NaN if it has no box."""
    if element is None:
        return NO_BOX
    if not isinstance(element, dict):
        raise BadLayout(f"element {number}: {describe_value(element)} where an object was expected")
    sides = _sides_of(element) or element
    try:
        x, y, width, height = (number_or_nan(name, sides.get(name)) for name in _SIDES)
    except BadLayout as error:
        raise BadLayout(f"element {number}: {error}") from None
    return x, y, x + width, y + height


def _canvas(record: dict, boxes: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the canvas, from boxes with an area (N, 4)."""
    size = record if {"width", "height"} <= record.keys() else record.get("viewport")
    if isinstance(size, dict) and size.get("width") is not None and size.get("height") is not None:
        return 0, 0, size["width"], size["height"]
    sides = boxes[:, 2:] - boxes[:, :2]
    x0, y0, x1, y1 = boxes[sides.prod(axis=1).argmax()]
    centres = boxes[:, :2] + sides / 2
    inside = (centres >= (x0, y0)) & (centres <= (x1, y1))
    if inside.all(axis=1).mean() > _MAIN_SHARE:
        return float(x0), float(y0), float(x1 - x0), float(y1 - y0)
    right, bottom = boxes[:, 2:].max(axis=0)
    return 0, 0, float(right), float(bottom)


def _stated_parents(elements: list) -> list[int | None] | None:
    """Return the place of each element's parent; None if no element names one.

    A parent that does not exist, and one whose own parents lead back to the element, count as none.
    """
    names = {}
    for number, element in enumerate(elements):
        for key in _ID_KEYS:
            if isinstance(element, dict) and isinstance(element.get(key), str | int):
                names.setdefault(str(element[key]), number)
    parents: list[int | None] = []
    for element in elements:
        stated = element if isinstance(element, dict) else {}
        parent = next((stated[key] for key in _PARENT_KEYS if stated.get(key) is not None), None)
        place = names.get(str(parent)) if isinstance(parent, str | int) else None
        if place is None and not names and type(parent) is int and 0 <= parent < len(elements):
            place = parent
        parents.append(place)
    return _without_circles(parents) if any(place is not None for place in parents) else None


def _without_circles(parents: list[int | None]) -> list[int | None]:
    done: set[int] = set()
    for start in range(len(parents)):
        path: dict[int, None] = {}
        at: int | None = start
        while at is not None and at not in done:
            if at in path:
                parents[at] = None
                break
            path[at] = None
            at = parents[at]
        done.update(path)
    return parents


def _containers(boxes: list[Box], shown: list[int]) -> list[int | None]:
    """Return the place of the smallest box that contains each box; of equal ones, the one before.

    Elements without an area lie in none.
    """
    parents: list[int | None] = [None] * len(boxes)
    corners = np.array([boxes[number] for number in shown], np.float64)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    order = np.lexsort((np.arange(len(areas)), -areas))  # the largest first, equal ones in order
    corners = corners[order]
    x0, y0, x1, y1 = np.ascontiguousarray(corners.T)
    for at in range(1, len(order)):
        left, top, right, bottom = corners[at]
        contains = (x0[:at] <= left) & (y0[:at] <= top) & (x1[:at] >= right) & (y1[:at] >= bottom)
        found = contains[::-1].argmax()
        if contains[at - 1 - found]:
            parents[shown[order[at]]] = shown[order[at - 1 - found]]
    return parents
