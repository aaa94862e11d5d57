"""uiautomator: views of a screen, clipped to the screen and to scrolled views."""

from __future__ import annotations

import gzip

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.box_tree import MAX_BOXES
from shards.format.layout import BadLayout
from shards.format.uiautomator import MAX_LEVELS, parse_uiautomator
from shards.open import open_index
from tests.support.uiautomator_specimens import APP, SCREEN, hierarchy, node, specimens

SPECIMENS = specimens()


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_specimen_gives_its_boxes(name):
    data, size, boxes = SPECIMENS[name]
    layout = parse_uiautomator(data)
    assert (layout.width, layout.height) == size
    assert layout.boxes.tolist() == boxes
    assert layout.meta["template"] == APP


def test_there_are_ten_specimens_that_each_build(tmp_path):
    assert len(SPECIMENS) >= 10
    for number, (data, _, _) in enumerate(SPECIMENS.values()):
        name = f"{number}.uix" if number % 2 else f"{number}.xml"
        (tmp_path / name).write_bytes(data)
    (tmp_path / "last.xml.gz").write_bytes(gzip.compress(SPECIMENS["a dialog"][0]))
    options = BuildOptions(workers=1, keep_duplicates=True)
    report = build([tmp_path], tmp_path.parent / "uiautomator-out", options)
    assert (report.counts["kept"], report.counts["rejected"]) == (len(SPECIMENS) + 1, 0)
    assert open_index(tmp_path.parent / "uiautomator-out").templates == [APP]


def test_skipped_views_are_counted():
    skipped = {
        name: parse_uiautomator(data).meta.get("skipped", 0)
        for name, (data, _, _) in SPECIMENS.items()
    }
    assert skipped["a screen"] == skipped["a dialog"] == 0
    assert skipped["views without area"] == 4
    assert skipped["hidden views"] == 1
    assert skipped["page source of Appium"] == 1


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><hierarchy><node text="&c;" bounds="[0,0][9,9]"/>'
    "</hierarchy>"
)
EXTERNAL = (
    '<?xml version="1.0"?><!DOCTYPE h SYSTEM "file:///etc/passwd"><hierarchy>'
    '<node bounds="[0,0][9,9]"/></hierarchy>'
)
DEEP = "<node>" * (MAX_LEVELS + 1) + "</node>" * (MAX_LEVELS + 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "document type"),
        (EXTERNAL, "document type"),
        ("", "XML"),
        ("text", "XML"),
        (hierarchy(), "no window has an area"),
        (hierarchy(node("[0,0][0,0]")), "no window has an area"),
        (hierarchy(node("[0,0][9]")), "must be"),
        (hierarchy(node(f"[0,0][{'9' * 30},9]")), "must be"),
        (hierarchy(node("[0,0][999999999999,9]")), "out of range"),
        (hierarchy(node("[0,0][90000,9]")), "canvas width"),
        (hierarchy(node(SCREEN))[:-20], "XML"),
        (hierarchy(node(SCREEN, DEEP)), "nested deeper"),
        (hierarchy(node(SCREEN, "<node/>" * MAX_BOXES)), "more than 20000 boxes"),
        ("<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>", "its root is <svg>"),
        ("<?xml version='1.0' encoding='no-such'?><hierarchy/>", "not NO-SUCH text"),
        (hierarchy(node(SCREEN, "\x01")), "XML"),
    ],
)
def test_other_documents_are_refused_in_one_line(text, message):
    with pytest.raises(BadLayout, match=message) as refusal:
        parse_uiautomator(text.encode())
    assert len(str(refusal.value).splitlines()) == 1


def test_truncated_anywhere_is_refused():
    data = SPECIMENS["a screen"][0]
    for length in range(len(data) - 1):
        with pytest.raises(BadLayout):
            parse_uiautomator(data[:length])
