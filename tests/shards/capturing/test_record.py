"""Conversion of a measured page: nesting, merging, limits, and any value that is no page."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.capturing.record import KINDS, MAX_LEVELS, make_record, page_id
from shards.capturing.targets import page_on_server
from shards.format.json_text import decode_json
from shards.format.layout import MAX_BOXES, BadLayout, parse_layout
from tests.support.damage import mutated
from tests.support.paths import REPO

TARGET = page_on_server("https://ann:pw@a.example/shop/tea?page=2&token=secret")
ROOT = [-1, 0, 0, 400, 900, None]


def walked(*boxes: list, height: float = 900) -> dict:
    """Return a value of `walk`."""
    rows = [list(box) for box in boxes]
    value = {"width": 400, "height": height, "elements": len(rows), "boxes": rows}
    return value | {"complete": True, "isBlank": False}


def test_boxes_are_relative_to_the_box_around_them():
    boxes = [ROOT, [0, 10.4, 20.5, 210.4, 120.5, "nav"], [1, 20, 30, 60, 50, "link"]]
    record = make_record(TARGET, 400, walked(*boxes))
    assert record["r"] == {
        "b": [0, 0, 400, 900],
        "t": "page",
        "c": [{"b": [10, 21, 200, 100], "t": "nav", "c": [{"b": [10, 9, 40, 20], "t": "link"}]}],
    }
    assert (record["n"], record["depth"]) == (3, 3)
    assert parse_layout(record).boxes.tolist() == [
        [0, 0, 400, 900], [10, 21, 210, 121], [20, 30, 60, 50]
    ]  # fmt: skip


def test_two_widths_of_a_page_are_recognised_by_address_and_viewport():
    page = [[-1, 0, 0, 200, 90, None]]
    wide, narrow = (make_record(TARGET, width, walked(*page)) for width in (400, 300))
    assert wide["id"] == page_id(TARGET, 400) == "https://a.example/shop/tea?page=2-400"
    assert [wide["viewport"], narrow["viewport"]] == [400, 300]
    shared = ("source", "template", "url_path")
    assert [wide[key] for key in shared] == [narrow[key] for key in shared]
    assert [wide[key] for key in shared] == ["a.example", "a.example", "/shop/tea?page=2"]


def test_equal_boxes_are_merged_and_thin_ones_left_out_with_their_children_kept():
    boxes = [
        [-1, 0, 0, 400, 900, None],
        [0, 50, 50, 150, 150, None],
        [1, 51, 50, 150, 149, "article"],  # the same rectangle
        [2, 60, 60, 100, 62, "divider"],  # thin
        [3, 60, 60, 90, 80, "link"],
        [0, 300, 300, 310, 290, None],  # inverted
    ]
    record = make_record(TARGET, 400, walked(*boxes))
    inner = {"b": [50, 50, 100, 100], "c": [{"b": [10, 10, 30, 20], "t": "link"}], "t": "article"}
    assert record["r"]["c"] == [inner]


def test_a_very_deep_page_keeps_its_boxes_on_the_last_level():
    boxes = [[n - 1, n, n, 4000, 4000, None] for n in range(1000)]
    record = make_record(TARGET, 4000, walked(*boxes, height=4000))
    assert record["depth"] == MAX_LEVELS
    assert record["n"] > MAX_LEVELS
    assert parse_layout(decode_json(json.dumps(record).encode())).depth == MAX_LEVELS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (walked(), "nothing is visible"),
        (walked(ROOT), "nothing is visible"),
        (walked(ROOT, [0, 9, 9, 90, 90, None]) | {"isBlank": True}, "nothing is visible"),
        (walked(*[[-1, 0, 0, 9, 9, None]] * (MAX_BOXES + 1)), f"more than {MAX_BOXES} boxes"),
        (walked(ROOT) | {"complete": False, "elements": 1000}, "more than 1000 elements"),
        (walked([0, 0, 0, 9, 9, None]), "parent of a box is 0"),
        (walked([-1, 0, 0, float("nan"), 9, None]), "a coordinate is nan"),
        (walked([-1, 0, 0, 9, 9, "My text"]), "kind of a box is 'My text'"),
        (walked([-1, 0, 0, 9, 9, ["nav"]]), "kind of a box is a list"),
        (walked([-1, 0, 0, 9]), "not six values"),
        (walked([-1, 0, 0, 9, 9, None], height=0), "page is 400 x 0 px"),
        (walked([-1, 0, 0, 9, 9, None], height=40_000), "canvas height is 40000"),
        (None, "gave no boxes"),
    ],
)
def test_a_page_that_cannot_be_used_is_refused(value, message):
    with pytest.raises(BadLayout, match=message):
        make_record(TARGET, 400, value)


def check_walked(value: object) -> None:
    """Assert that a value is refused, or gives a record that can be built."""
    try:
        record = make_record(TARGET, 400, value)
    except BadLayout as error:
        lines = str(error).splitlines()
    else:
        lines = ["no error"]
        check_record(record)
    assert len(lines) == 1


def check_record(record: dict) -> None:
    """Assert that a record can be built, and has no secret of its address."""
    layout = parse_layout(decode_json(json.dumps(record).encode()))
    assert (layout.width, layout.height) == (400, record["h"])
    assert record["n"] >= 2
    assert "secret" not in json.dumps(record)
    assert "pw" not in json.dumps(record)


NAV, LINK = [0, 10, 20, 210, 120, "nav"], [1, 20, 30, 60, 50, "link"]
PAGE = walked(ROOT, NAV, LINK, [0, 5, 300, 90, 400, None])
NUMBERS = st.integers(-50, 500) | st.floats()


@given(mutated(PAGE))
def test_a_mutated_walk_is_refused_or_gives_a_valid_layout(value):
    check_walked(value)


@given(st.lists(st.tuples(st.integers(-2, 9), *[NUMBERS] * 4, st.none()).map(list), max_size=12))
def test_random_boxes_are_refused_or_give_a_valid_layout(rows):
    check_walked(walked(*rows))


def test_the_walker_and_the_conversion_have_the_same_kinds():
    walker = (REPO / "shards" / "capturing" / "walker.js").read_text()
    tables = re.findall(r"^  (?:KINDS|ROLES|INPUTS): \{(.*?)\n  \},", walker, re.DOTALL | re.M)
    assert len(tables) == 3
    assert set(re.findall(r': "(\w+)"', "".join(tables))) == KINDS
