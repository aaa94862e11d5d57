"""Files and nodes of Figma, in the JSON of its REST API and of its plugins.

- `GET /v1/files/KEY`: `{"name": ..., "document": {"type": "DOCUMENT", "children": [canvases]}}`;
- `GET /v1/files/KEY/nodes`: `{"name": ..., "nodes": {"1:2": {"document": node}, ...}}`;
- a node, or a list of nodes, of a plugin: `{"type": "FRAME", "x", "y", "width", "height", ...}`.

The frames at the top level of canvases (in plugins: pages) and sections are the pages. A node has
its `absoluteBoundingBox`; without one, its `x` and `y` are relative to the frame around it, not to
groups. Fields: https://developers.figma.com/docs/rest-api/file-node-types/
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from shards.format.box_tree import (
    Box,
    canvas_size,
    clipped,
    has_area,
    layout_of_tree,
    number_or_nan,
)
from shards.format.layout import MAX_BOXES, BadLayout, Layout, describe_value
from shards.source_formats import register_schema

ROOTS = ("FRAME", "COMPONENT", "INSTANCE", "COMPONENT_SET", "GROUP")
CANVASES = ("DOCUMENT", "CANVAS", "PAGE", "SECTION")
MAX_FRAMES = 5000

_GROUPS = ("GROUP", "BOOLEAN_OPERATION")  # the positions in them are relative to the frame around
_TYPES = {*ROOTS, *CANVASES, *_GROUPS, "TEXT", "RECTANGLE", "VECTOR", "ELLIPSE", "LINE", "STAR"}
_TYPES |= {"REGULAR_POLYGON", "POLYGON", "SLICE"}
_SIDES = ("x", "y", "width", "height")
_OTHER_SCHEMAS = ("r", "bounds", "activity")


class _Frame(NamedTuple):
    """A node at the top level, the name of its canvas or section, and the types of pages there."""

    node: dict
    place: str
    kinds: tuple[str, ...]


def _is_node(value: object) -> bool:
    is_named = isinstance(value, dict) and isinstance(value.get("type"), str)
    return is_named and value["type"] in _TYPES


def is_figma(record: dict) -> bool:
    """Return whether a record is a file, or one or several nodes, of Figma."""
    if any(key in record for key in _OTHER_SCHEMAS):
        return False
    nodes, elements = record.get("nodes"), record.get("elements")
    if isinstance(nodes, dict) and "document" not in record:
        return any(_is_node(entry.get("document")) for entry in _dicts(nodes.values()))
    if isinstance(elements, list) and "type" not in record:
        return any(_is_node(element) for element in elements[:1])
    return _is_node(record.get("document")) or _is_node(record)


def _dicts(values: object) -> list[dict]:
    return [value for value in values if isinstance(value, dict)]


@register_schema("figma", recognises=is_figma)
def parse_figma(record: dict) -> list[Layout | BadLayout]:
    """Return the frames of a file as pages.

    The id is the place, name and id of the frame; the label is the name of its section or canvas,
    and the template that of the file. Nodes that are not visible are left out with their children.
    Raises `BadLayout` if there is no visible frame.
    """
    name = _text(record, "name") if "document" in record or "nodes" in record else ""
    frames = list(_frames(_roots(record)))
    if not frames:
        raise BadLayout("no visible frame at the top level of a canvas, page or section")
    if len(frames) > MAX_FRAMES:
        raise BadLayout(f"more than {MAX_FRAMES} frames")
    return [_page(frame, name) for frame in frames]


def _roots(record: dict) -> list[dict]:
    """Return the nodes that the record holds: a list of them, or a single one."""
    nodes, elements = record.get("nodes"), record.get("elements")
    if isinstance(nodes, dict) and "document" not in record:
        documents = [entry.get("document") for entry in _dicts(nodes.values())]
        return [document for document in documents if _is_node(document)]
    if isinstance(elements, list) and "type" not in record:
        return _dicts(elements)
    return [record["document"] if _is_node(record.get("document")) else record]


def _frames(roots: list[dict]) -> Iterator[_Frame]:
    """Yield the visible frames at the top level, in order.

    Components and groups are pages only if they are roots: those of a canvas are parts of pages.
    """
    stack = [_Frame(root, "", ROOTS) for root in reversed(roots)]
    while stack:
        frame = stack.pop()
        node, kind = frame.node, frame.node.get("type")
        if not _is_visible(node):
            continue
        if kind in CANVASES:
            place = frame.place if kind == "DOCUMENT" else _text(node, "name") or frame.place
            children = _dicts(_children(node))
            stack.extend(_Frame(child, place, ("FRAME",)) for child in reversed(children))
        elif kind in frame.kinds:
            yield frame


def _page(frame: _Frame, file_name: str) -> Layout | BadLayout:
    node = frame.node
    node_id = _text(node, "id")
    page_id = "/".join(part for part in (frame.place, _text(node, "name")) if part)
    page_id = f"{page_id} ({node_id})" if page_id and node_id else page_id or node_id
    try:
        x0, y0, x1, y1 = box = _box_of(node, 0, 0)
        if not has_area(box):
            raise BadLayout("the frame has no area")
        return layout_of_tree(
            {"id": page_id, "label": frame.place, "template": file_name},
            _tree(node),
            read_box=lambda tree, x, y: tree["box"],
            children_key="children",
            canvas=canvas_size(x1 - x0, y1 - y0),
            origin=(x0, y0),
        )
    except BadLayout as error:
        error.page_id = page_id or None
        return error


def _tree(frame: dict) -> dict:
    """Return a frame as a tree of absolute boxes, clipped where frames clip their content."""
    top: list[dict] = []
    stack: list[tuple[dict, float, float, Box | None, list]] = [(frame, 0, 0, None, top)]
    count = 0
    while stack:
        node, left, above, clip, siblings = stack.pop()
        count += 1
        if count > MAX_BOXES:
            raise BadLayout(f"more than {MAX_BOXES} boxes")
        if not isinstance(node, dict):
            raise BadLayout(f"box {count}: {describe_value(node)} where an object was expected")
        if not _is_visible(node):
            siblings.append({"box": None})
            continue
        whole = _box_of(node, left, above)
        box = clipped(whole, clip)
        siblings.append({"box": box, "children": []})
        if node.get("clipsContent") is True and has_area(whole):
            clip = box
        if node.get("type") not in _GROUPS and not math.isnan(whole[0] + whole[1]):
            left, above = whole[:2]
        inner = siblings[-1]["children"]
        stack.extend((child, left, above, clip, inner) for child in reversed(_children(node)))
    return top[0]


def _is_visible(node: dict) -> bool:
    """Return whether a node is painted, by its own properties."""
    is_hidden = node.get("visible") is False or node.get("opacity") == 0
    return not (is_hidden or node.get("isMask") is True or node.get("type") == "SLICE")


def _children(node: dict) -> list:
    """Return the children that are painted; a boolean operation paints one shape made of them."""
    children = node.get("children")
    if children is None or node.get("type") == "BOOLEAN_OPERATION":
        return []
    if not isinstance(children, list):
        raise BadLayout(f'"children" is {describe_value(children)}, not a list')
    return [child for child in children if child is not None]


def _box_of(node: dict, left: float, above: float) -> Box:
    """Return x0, y0, x1, y1 of a node whose position is relative to (left, above)."""
    bounds = node.get("absoluteBoundingBox")
    if bounds is not None and not isinstance(bounds, dict):
        raise BadLayout(f'"absoluteBoundingBox" is {describe_value(bounds)}, not an object')
    sides = node if bounds is None else bounds
    x, y, width, height = (number_or_nan(name, sides.get(name)) for name in _SIDES)
    if bounds is None:
        x, y = left + x, above + y
    return x, y, x + width, y + height


def _text(node: dict, key: str) -> str:
    value = node.get(key)
    return value if isinstance(value, str) else ""
