"""Element lists: nested by containment or by their parents, on the canvas of the page."""

from __future__ import annotations

import gzip
import json
import time

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.box_tree import MAX_BOXES
from shards.format.layout import BadLayout, parse_layout, schema_of
from tests.support.element_specimens import PAGE, element, specimens

SPECIMENS = specimens()


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_specimen_gives_its_boxes(name):
    record, size, boxes, depth = SPECIMENS[name]
    assert schema_of(record).name == "elements"
    layout = parse_layout(record)
    assert (layout.width, layout.height) == size
    assert sorted(layout.boxes.tolist()) == sorted(boxes)
    assert layout.depth == depth


def test_parents_come_before_their_children_in_the_order_of_the_list():
    assert parse_layout(SPECIMENS["a list in another order"][0]).boxes.tolist() == [
        PAGE[n] for n in (0, 3, 1, 2)
    ]
    assert parse_layout(SPECIMENS["a parent elsewhere"][0]).boxes.tolist() == [
        PAGE[n] for n in (0, 1, 3, 2)
    ]


def test_there_are_ten_specimens_that_each_build(tmp_path):
    assert len(SPECIMENS) >= 10
    for number, (record, *_) in enumerate(SPECIMENS.values()):
        data = json.dumps(record).encode()
        name = f"default_1280-720-bb-{number}.json.gz" if number % 2 else f"{number}.json"
        (tmp_path / name).write_bytes(gzip.compress(data) if number % 2 else data)
    options = BuildOptions(workers=1, keep_duplicates=True)
    report = build([tmp_path], tmp_path.parent / "elements-out", options)
    assert (report.counts["kept"], report.counts["rejected"]) == (len(SPECIMENS), 0)
    assert report.counts["skipped_nodes"] == 3


def test_texts_of_the_object_are_kept():
    meta = parse_layout(SPECIMENS["an object with texts"][0]).meta
    assert meta == {"id": "首页", "label": "home", "template": "shop"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "not a layout"),
        ([1, 2], "not a layout"),
        ([{"hello": 1}], "not a layout"),
        ([{"w": 9, "h": 9, "r": {"b": [0, 0, 9, 9]}}], "not a layout"),
        ([{"bounds": element([0, 0, 9, 9]), "children": []}], "not a layout"),
        ([element([0, 0, 0, 9])], "no element has an area"),
        ([element([0, 0, 9, 9]), 5], "element 1: 5 where an object was expected"),
        ([element([0, 0, 9, 9]), element([0, 0, 9, 9]) | {"x": "1"}], "element 1: x is '1'"),
        ([element([0, 0, 9, 9])] * (MAX_BOXES + 1), "more than 20000 boxes"),
        ([element([0, 0, 90_000, 9])], "canvas width"),
        ({"elements": [element([0, 0, 9, 9])], "width": "1", "height": 1}, "canvas width"),
    ],
)
def test_other_lists_are_refused_in_one_line(record, message):
    with pytest.raises(BadLayout, match=message) as refusal:
        parse_layout(record)
    assert len(str(refusal.value).splitlines()) == 1


def test_the_largest_list_is_nested_in_seconds():
    elements = [element([n % 100, n // 100, 1000, 1000]) for n in range(MAX_BOXES)]
    start = time.process_time()
    assert len(parse_layout(elements).boxes) == MAX_BOXES
    assert time.process_time() - start < 20
