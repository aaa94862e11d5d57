"""Layouts of each schema, and refused records."""

import copy
import math

import numpy as np
import pytest

from shards.format.layout import BadLayout, parse_layout, scaled_height

COMPACT = {
    "id": "p",
    "label": "login",
    "w": 100,
    "h": 200,
    "r": {"b": [0, 0, 100, 200], "c": [{"b": [10, 20, 50, 60], "c": [{"b": [5, 5, 10, 10]}]}]},
}
BOUNDS = {
    "bounds": {"x": 7, "y": 9, "width": 100, "height": 200},
    "children": [
        {
            "bounds": {"x": 10, "y": 20, "width": 50, "height": 60},
            "children": [{"bounds": {"x": 5, "y": 5, "width": 10, "height": 10}}],
        }
    ],
}
RICO = {
    "activity": {
        "root": {
            "bounds": [0, 0, 100, 200],
            "children": [
                {
                    "bounds": [10, 20, 60, 80],
                    "children": [
                        {"bounds": [15, 25, 25, 35]},
                        {"bounds": [1, 1, 9, 9], "visible-to-user": False},
                        {"bounds": [40, 40, 40, 50]},
                        None,
                    ],
                }
            ],
        }
    }
}
BOXES = [[0, 0, 100, 200], [10, 20, 60, 80], [15, 25, 25, 35]]


@pytest.mark.parametrize("record", [COMPACT, BOUNDS, RICO], ids=["compact", "bounds", "rico"])
def test_every_schema_gives_the_same_absolute_boxes(record):
    layout = parse_layout(record)
    assert (layout.width, layout.height, layout.depth) == (100, 200, 3)
    assert layout.boxes.tolist() == BOXES
    assert layout.boxes.dtype == np.int16


def test_boxes_are_clipped_and_boxes_outside_are_dropped():
    record = copy.deepcopy(COMPACT)
    record["r"]["c"] = [{"b": [-10, 190, 50, 50]}, {"b": [300, 0, 5, 5]}]
    assert parse_layout(record).boxes.tolist() == [[0, 0, 100, 200], [0, 190, 40, 200]]


def test_fractions_are_kept():
    record = copy.deepcopy(COMPACT)
    record["r"]["c"] = [{"b": [0.5, 1.25, 2, 2]}]
    boxes = parse_layout(record).boxes
    assert boxes.dtype == np.float32
    assert boxes[1].tolist() == [0.5, 1.25, 2.5, 3.25]


def test_metadata_is_kept_and_a_missing_label_is_other():
    assert parse_layout(COMPACT).meta == {"id": "p", "label": "login"}
    assert parse_layout(BOUNDS).meta["label"] == "other"


def changed(path: list, value: object) -> dict:
    record = copy.deepcopy(COMPACT)
    node = record
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return record


def deep(levels: int) -> dict:
    node: dict = {"b": [0, 0, 9, 9]}
    for _ in range(levels):
        node = {"b": [0, 0, 9, 9], "c": [node]}
    return {"w": 9, "h": 9, "r": node}


CHILD = ["r", "c", 0, "b"]


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        "text",
        17,
        {},
        {"w": 100},
        changed(["w"], 0),
        changed(["w"], -5),
        changed(["w"], 10**9),
        changed(["w"], "100"),
        changed(["w"], True),
        changed(["w"], math.nan),
        changed(["h"], 10**400),
        changed(["r"], []),
        changed(["r", "c"], "abc"),
        changed(["r", "c"], [3]),
        changed(CHILD, [0, 0, 3]),
        changed(CHILD, [False, 0, 3, 3]),
        changed(["label"], {"a": 1}),
        {"w": 31_700, "h": 31_700, "r": {"b": [0, 0, 31_700, 31_700]}},
        {"activity": {"root": None}},
        {"activity": 3},
        {"bounds": {"x": 0, "y": 0, "width": 10}},
    ],
)
def test_an_invalid_layout_is_refused_in_one_line(record):
    with pytest.raises(BadLayout) as refusal:
        parse_layout(record)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value)


def node_of(schema: str, x: object, y: object, width: object, height: object, *inner: dict) -> dict:
    """Return a node of a schema at a place of the canvas; None for x: a node without a box."""
    if schema == "compact":
        return {"b": [x, y, width, height], "c": list(inner)}
    if schema == "bounds":
        names = ("x", "y", "width", "height")
        sides = dict(zip(names, (x, y, width, height), strict=True))
        return {"bounds": sides, "children": list(inner)}
    corners = [x, y, width, height]
    if x is not None and y is not None:
        corners[2] = None if width is None else x + width
        corners[3] = None if height is None else y + height
    return {"bounds": corners, "children": list(inner)}


def page_of(schema: str, *inner: dict) -> dict:
    """Return a page of 100 x 200 px of a schema."""
    root = node_of(schema, 0, 0, 100, 200, *inner)
    return {"w": 100, "h": 200, "r": root} if schema == "compact" else root


SCHEMAS = ("compact", "bounds", "rico")
WITHOUT_AREA = {
    "zero width": (10, 20, 0, 14),
    "zero height": (10, 20, 14, 0),
    "negative width": (10, 20, -3, 14),
    "negative height": (10, 20, 14, -1e-9),
    "null width": (10, 20, None, 14),
    "null": (None, None, None, None),
    "nan": (math.nan, 20, 30, 40),
    "all nan": (math.nan,) * 4,
    "infinite": (10, 20, math.inf, 14),
}


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("name", WITHOUT_AREA)
def test_a_node_without_area_is_skipped_and_counted_and_its_children_are_kept(schema, name):
    inner = node_of(schema, 1, 2, 30, 40)
    empty = node_of(schema, *WITHOUT_AREA[name], inner)
    layout = parse_layout(page_of(schema, empty, node_of(schema, 5, 5, 9, 9)))
    x, y = WITHOUT_AREA[name][:2]
    is_placed = schema != "rico"  # its boxes are not relative to the parent
    left = 1 + (x if is_placed and x is not None and math.isfinite(x) else 0)
    top = 2 + (y if is_placed and y is not None and math.isfinite(y) else 0)
    expected = [[0, 0, 100, 200], [left, top, left + 30, top + 40], [5, 5, 14, 14]]
    assert layout.boxes.tolist() == expected
    assert layout.meta["skipped"] == 1
    assert layout.depth == 2


ABSENT = {
    "compact": [{}, {"b": None}],
    "bounds": [{}, {"bounds": None}, {"bounds": {}}, {"bounds": {"x": 1, "y": 2, "width": 3}}],
    "rico": [{}, {"bounds": None}],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_node_without_a_box_is_skipped_and_its_children_are_kept(schema):
    key = "c" if schema == "compact" else "children"
    for node in ABSENT[schema]:
        inner = [node_of(schema, 1, 2, 30, 40)]
        layout = parse_layout(page_of(schema, {**node, key: inner}))
        assert layout.boxes[1:, 2:].tolist() in ([[31, 42]], [[32, 44]])
        assert layout.meta["skipped"] == 1


def test_a_compact_page_whose_root_has_no_area_is_read():
    root = {"b": [0, 0, 0, 0], "c": [{"b": [0, 0, 50, 60]}]}
    assert parse_layout({"w": 100, "h": 200, "r": root}).boxes.tolist() == [[0, 0, 50, 60]]


def test_a_page_of_nodes_without_area_is_refused():
    with pytest.raises(BadLayout, match="no visible box"):
        parse_layout({"w": 100, "h": 200, "r": {"b": [0, 0, 0, 9], "c": [{"b": None}]}})


def test_a_tree_of_fifty_thousand_levels_is_refused():
    with pytest.raises(BadLayout):
        parse_layout(deep(50_000))


def test_a_tree_as_deep_as_real_pages_is_read():
    assert parse_layout(deep(60)).depth == 61


def test_scaled_height_rounds_half_up_and_is_at_least_one():
    assert scaled_height(1280, 1746, 128) == 175
    assert scaled_height(2, 1, 1) == 1
    assert scaled_height(1000, 1, 10) == 1
    heights = scaled_height(np.array([1280, 390]), np.array([6000, 5]), 128)
    assert heights.tolist() == [600, 2]
