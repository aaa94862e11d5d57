"""`read_page`: one layout or picture file as a batch of one page."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.errors import UserError
from shards.format.layout import MAX_DEPTH
from shards.page_file import read_page
from shards.reading.batch import Batch


def read(path: Path, width: int = 16) -> Batch:
    return read_page(path, width=width, max_height=32, stride=16)


def test_a_layout_and_its_drawn_picture_give_the_same_page(tmp_path):
    layout = {"w": 16, "h": 20, "r": {"b": [0, 0, 16, 20], "c": [{"b": [4, 5, 6, 7]}]}}
    (tmp_path / "page.json").write_text(json.dumps(layout))
    page = read(tmp_path / "page.json")
    gray = (page.images()[0, 0, :20] * 255).round().byte().numpy()
    assert gray[6, 5] == round(2 / MAX_DEPTH * 255)
    Image.fromarray(gray).save(tmp_path / "page.png")
    picture = read(tmp_path / "page.png")
    assert picture.size == page.size
    assert picture.heights.tolist() == page.heights.tolist() == [20]
    assert (picture.images() - page.images()).abs().max() <= 0.5 / 255 + 1e-6


def test_a_picture_is_recognised_by_its_first_bytes(tmp_path):
    Image.fromarray(np.full((20, 16), 90, np.uint8)).save(tmp_path / "page.png")
    (tmp_path / "page.png").rename(tmp_path / "page")
    assert (read(tmp_path / "page").images()[0, 0, :20] * 255).round().unique().tolist() == [90]


def test_a_page_is_scaled_to_the_width_and_its_top_is_kept(tmp_path):
    gray = np.zeros((200, 32), np.uint8)
    gray[:64] = 100
    Image.fromarray(gray).save(tmp_path / "page.png")
    page = read(tmp_path / "page.png")
    assert page.size == (32, 16)
    assert page.heights.tolist() == [32]
    assert (page.images() * 255).round().unique().tolist() == [100]


def test_the_first_of_json_lines_is_read(tmp_path):
    lines = [{"w": 16, "h": high, "r": {"b": [0, 0, 16, high]}} for high in (7, 9)]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read(tmp_path / "pages.jsonl").heights.tolist() == [7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"w": 1', "cut off"),
        ("a.json", b"[]", "not a layout"),
        ("a.json", b"", "JSON is cut off"),
        ("a.jsonl", b"\n", "holds no layout"),
        ("a.jsonl.gz", b"{}", "damaged gzip"),
        ("a.png", b"no picture", "not a PNG"),
        ("missing.json", None, "No such file"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_with_its_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a regular file"):
        read(tmp_path)


def test_a_picture_that_would_be_scaled_to_gigabytes_is_refused(tmp_path):
    Image.fromarray(np.zeros((32767, 1), np.uint8)).save(tmp_path / "needle.png")
    with pytest.raises(UserError, match="more than 100000000 px"):
        read(tmp_path / "needle.png", width=128)
