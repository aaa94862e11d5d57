"""JSON schemas of layouts, one registered parser each: compact, bounds and RICO.

- compact: ``{"w": W, "h": H, "r": {"b": [x, y, w, h], "c": [...]}}``, x and y relative to the
  parent;
- bounds: ``{"bounds": {"x", "y", "width", "height"}, "children": [...]}``, relative to the parent;
  the bounds of the root are the canvas;
- rico (Deka et al. 2017): ``{"activity": {"root": {"bounds": [x0, y0, x1, y1], "children": [...]}}
  }``, absolute; a bare node of that form, as in RICO's semantic annotations, is read as well.

A further schema is one more function here with `register_schema`, see `shards.source_formats`.
"""

from __future__ import annotations

from shards.format.box_tree import NO_BOX, Box, canvas_size, four_numbers, layout_of_tree
from shards.format.layout import BadLayout, Layout, describe_value
from shards.source_formats import register_schema

_SIZES = ("x", "y", "width", "height")
_CORNERS = ("x0", "y0", "x1", "y1")


@register_schema("compact", recognises=lambda record: "r" in record)
def parse_compact(record: dict) -> Layout:
    """Return the layout of a record of the compact schema."""
    canvas = canvas_size(record.get("w"), record.get("h"))
    return layout_of_tree(
        record, record["r"], read_box=_compact_box, children_key="c", canvas=canvas
    )


def _compact_box(node: dict, left: float, top: float) -> Box:
    x, y, width, height = four_numbers(node.get("b"), _SIZES)
    return left + x, top + y, left + x + width, top + y + height


def _is_rico(record: dict) -> bool:
    is_node = isinstance(record.get("bounds"), list)
    return "r" not in record and ("activity" in record or is_node)


@register_schema("rico", recognises=_is_rico)
def parse_rico(record: dict) -> Layout:
    """Return the layout of a RICO view hierarchy, without invisible views and their children."""
    root = record
    if "activity" in record:
        activity = record["activity"]
        if not isinstance(activity, dict) or not isinstance(activity.get("root"), dict):
            raise BadLayout('"activity" holds no "root" node')
        root = activity["root"]
    left, top, right, bottom = four_numbers(root.get("bounds"), _CORNERS)
    name = record.get("activity_name")
    if isinstance(name, str) and record.get("template") is None:
        # Screens of one app are near-alike, as the pages of one template are.
        record = {**record, "template": name.split("/")[0]}
    return layout_of_tree(
        record,
        root,
        read_box=_rico_box,
        children_key="children",
        canvas=canvas_size(right - left, bottom - top),
        origin=(left, top),
    )


def _rico_box(node: dict, left: float, top: float) -> Box | None:
    if node.get("visible-to-user") is False or node.get("visibility") in ("invisible", "gone"):
        return None
    return four_numbers(node.get("bounds"), _CORNERS)


def _is_bounds(record: dict) -> bool:
    return "bounds" in record and "r" not in record and not _is_rico(record)


@register_schema("bounds", recognises=_is_bounds)
def parse_bounds(record: dict) -> Layout:
    """Return the layout of a record of the bounds schema."""
    left, top, width, height = _bounds_of(record)
    return layout_of_tree(
        record,
        record,
        read_box=_bounds_box,
        children_key="children",
        canvas=canvas_size(width, height),
        origin=(left, top),
    )


def _bounds_box(node: dict, left: float, top: float) -> Box:
    x, y, width, height = _bounds_of(node)
    return left + x, top + y, left + x + width, top + y + height


def _bounds_of(node: dict) -> Box:
    bounds = node.get("bounds")
    if bounds is None:
        return NO_BOX
    if not isinstance(bounds, dict):
        raise BadLayout(f'"bounds" is {describe_value(bounds)}, not an object')
    return four_numbers([bounds.get(name) for name in _SIZES], _SIZES)
