"""Figma: frames as pages with their visible boxes."""

from __future__ import annotations

import copy
import json

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.box_tree import MAX_BOXES
from shards.format.figma import MAX_FRAMES, parse_figma
from shards.format.layout import BadLayout, Layout, parse_layouts, schema_of
from shards.open import open_index
from tests.support.figma_specimens import canvas, login, rest, rest_file, specimens

SPECIMENS = specimens()


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_specimen_gives_its_pages(name):
    record, expected = SPECIMENS[name]
    assert schema_of(record).name == "figma"
    pages = parse_layouts(record)
    assert len(pages) == len(expected)
    for page, (label, frame, width, height, boxes) in zip(pages, expected, strict=True):
        assert isinstance(page, Layout)
        assert (page.width, page.height) == (width, height)
        assert page.boxes.tolist() == boxes
        assert page.meta["label"] == (label or "other")
        assert page.meta["id"].startswith(f"{label}/{frame} (" if label else f"{frame} (")


def test_there_are_ten_specimens_that_each_build(tmp_path):
    assert len(SPECIMENS) >= 10
    for number, (record, _) in enumerate(SPECIMENS.values()):
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    options = BuildOptions(workers=1, keep_duplicates=True, format="figma")
    report = build([tmp_path], tmp_path.parent / "figma-out", options)
    assert report.counts["kept"] == sum(len(pages) for _, pages in SPECIMENS.values())
    assert report.counts["rejected"] == 0
    assert open_index(tmp_path.parent / "figma-out").templates == ["", "Shop", "Site"]


def test_skipped_nodes_are_counted():
    record, _ = SPECIMENS["nodes without area"]
    # The line, slice, vector without box, mask, faded text and the group without area.
    assert parse_layouts(record)[0].meta["skipped"] == 6


def test_a_frame_that_is_refused_keeps_the_others():
    huge = rest("FRAME", "Huge", (0, 0, 90_000, 100))
    flat = rest("FRAME", "Flat", (0, 0, 90, 0))
    bad = rest("FRAME", "Bad", (0, 0, 90, 90), {"type": "TEXT", "absoluteBoundingBox": "x"})
    pages = parse_figma(rest_file("F", canvas("C", huge, login(0, 0), flat, bad)))
    refused = [page for page in pages if isinstance(page, BadLayout)]
    assert [page.page_id.split(" (")[0] for page in refused] == ["C/Huge", "C/Flat", "C/Bad"]
    assert [isinstance(page, Layout) for page in pages] == [False, True, False, False]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (rest_file("F", canvas("C")), "no visible frame"),
        (rest_file("F"), "no visible frame"),
        (rest_file("F", canvas("C", rest("COMPONENT", "Part", (0, 0, 9, 9)))), "no visible frame"),
        (rest_file("F", canvas("C", *[login(0, 0)] * (MAX_FRAMES + 1))), "more than 5000 frames"),
        ({"type": "FRAME", "visible": False}, "no visible frame"),
        ({"type": "DOCUMENT", "children": "x"}, "children"),
    ],
)
def test_a_file_without_frames_is_refused_in_one_line(record, message):
    with pytest.raises(BadLayout, match=message) as refusal:
        parse_figma(record)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_frame_of_too_many_nodes_is_refused():
    frame = rest("FRAME", "Many", (0, 0, 9, 9), *[rest("TEXT", "t", (1, 1, 2, 2))] * MAX_BOXES)
    (page,) = parse_figma(frame)
    assert isinstance(page, BadLayout)


def test_a_deep_frame_is_read_without_recursion():
    node = rest("FRAME", "Inner", (0, 0, 9, 9))
    for _ in range(5000):
        outer = copy.copy(node)
        outer["children"] = [node]
        node = outer
    assert parse_figma(node)[0].depth == 5001
