"""Contact sheets: pages in order, with the pages' own ids."""

import numpy as np
import pytest
from PIL import Image

from shards.build import build
from shards.building.options import BuildOptions
from shards.contact_sheet import CAPTION, GAP, chosen_pages, describe_pages, draw_sheet
from shards.errors import UserError
from shards.open import open_index
from tests.shards.pages import page, write_lines

IDS = ["登录页0", "a\u202eb\n", "登录页1"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheet")
    records = [page(name, x=9 * n) for n, name in enumerate(IDS)]
    options = BuildOptions(workers=1, keep_duplicates=True, val_fraction=0)
    build([write_lines(folder / "x.jsonl", records)], folder / "x", options)
    return open_index(folder / "x")


def test_pages_are_named_by_key_and_own_id(index):
    lines = [line.split("\t") for line in describe_pages(index, chosen_pages(range(3)))]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert {line[2] for line in lines} == {"登录页0", "a\\u202eb\\n", "登录页1"}
    assert all(line[1].isascii() for line in lines)
    assert lines[0][3:] == ["other", "-", "200 x 300 px", "7 boxes"]


def test_the_sheet_holds_each_page_as_it_is_drawn(index, tmp_path):
    draw_sheet(index, chosen_pages(range(3)), tmp_path / "x.png", (100, 64))
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    assert sheet.shape == (64 + CAPTION + 2 * GAP, 3 * (100 + GAP) + GAP)
    assert (sheet[GAP + CAPTION : GAP + CAPTION + 64, GAP : GAP + 100] < 128).all()
    assert (sheet[GAP : GAP + CAPTION, GAP : GAP + 100] < 128).any()  # a caption


def test_a_sheet_that_cannot_be_written_is_reported(index, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        draw_sheet(index, chosen_pages(range(1)), tmp_path / "none" / "x.png", (32, 32))
