"""Files of pages: names, atomic writing, and SVG."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.vaetrain.layouts.test_boxes import PAGE, drawn
from vaetrain.layouts.page_files import PageFiles, file_name

BOXES = [PAGE, [4, 4, 30, 36], [6, 6, 10, 9]]


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "/", "..", "", "a/b\\c", "x" * 100_000, "登录\u202e\n\0", "a b~%s"]
)
def test_names_of_hostile_keys_stay_in_the_folder(key, tmp_path):
    name = file_name(7, 1000, key)
    assert name.startswith("007-")
    assert len(name) < 120
    path = tmp_path / f"{name}.png"
    assert path.resolve().parent == tmp_path.resolve()
    path.touch()
    assert name != file_name(8, 1000, key)


def test_a_plain_key_is_kept():
    assert file_name(12, 12, "npm-page_1.2-1280") == "12-npm-page_1.2-1280"


def test_pictures_layouts_and_svg_are_written(tmp_path):
    page = drawn(BOXES)
    with PageFiles(tmp_path / "png", tmp_path / "a.jsonl", tmp_path / "svg") as files:
        for number in range(3):
            files.write(f"p{number}", page, {"id": f"page {number}"})
    grey = np.asarray(Image.open(tmp_path / "png" / "p1.png"))
    np.testing.assert_array_equal(grey, (page * 255).round())
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ["page 0", "page 1", "page 2"]
    assert len(list((tmp_path / "svg").iterdir())) == 3


def fail_after_a_page(path: Path) -> None:
    with PageFiles(layouts=path) as files:
        files.write("p", drawn(BOXES), {})
        raise ZeroDivisionError


def test_an_error_leaves_no_file_of_layouts_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(ZeroDivisionError):
        fail_after_a_page(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_after_a_page(path)
    assert path.read_text() == "old"


def test_svg_is_well_formed_and_has_all_boxes(tmp_path):
    title = "<script>&\x00\ud800\uffff]]>"
    with PageFiles(svg=tmp_path) as files:
        files.write("p", drawn(BOXES), {"id": title})
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    assert root.get("viewBox") == "0 0 64 40"
    space = "{http://www.w3.org/2000/svg}"
    boxes = [
        [float(r.get(k)) for k in ("x", "y", "width", "height")] for r in root.iter(f"{space}rect")
    ]
    assert boxes == [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in BOXES]
    assert root.find(f"{space}title").text.startswith("<script>&")
