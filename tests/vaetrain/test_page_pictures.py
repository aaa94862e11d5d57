"""Grey pictures of pages and their arrangement."""

import numpy as np
import pytest
import torch
from PIL import Image

from vaetrain.page_pictures import (
    BRIGHTNESS,
    GAP,
    PAPER,
    contact_sheet,
    cut_pages,
    error_map,
    rows_of_pages,
    write_sheet,
)


def test_an_error_map_is_proportional_to_the_errors():
    pages = torch.rand(2, 1, 8, 8)
    assert not error_map(pages, pages).any()
    wrong = pages.clone()
    wrong[1, 0, 3, 4] += 0.05
    wrong[1, 0, 5, 6] -= 0.02
    errors = error_map(wrong, pages)
    assert list(zip(*errors.nonzero(), strict=True)) == [(1, 3, 4), (1, 5, 6)]
    assert errors[1, 3, 4] == pytest.approx(2.5 * errors[1, 5, 6], abs=3)


def test_cut_pages_have_no_padding_and_are_brightened():
    images = torch.full((2, 1, 8, 4), 0.2)
    pages = cut_pages(images, torch.tensor([3, 8]))
    assert [page.shape for page in pages] == [(3, 4), (8, 4)]
    assert np.unique(pages[1]).tolist() == [round(255 * 0.2 * BRIGHTNESS)]


def test_a_contact_sheet_has_the_pages_in_reading_order(tmp_path):
    pages = [np.full((height, 6), height, np.uint8) for height in (5, 9, 7)]
    sheet = contact_sheet(pages, columns=2)
    step = 6 + GAP
    assert sheet.shape == (9 + GAP + 7 + GAP, 2 * step)
    assert (sheet[:5, :6] == 5).all()
    assert (sheet[5 : 9 + GAP, :6] == PAPER).all()
    assert (sheet[:9, step : step + 6] == 9).all()
    assert (sheet[9 + GAP : 9 + GAP + 7, :6] == 7).all()
    write_sheet(tmp_path / "sheet.png", pages, columns=2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), sheet)


def test_rows_of_pages_share_columns_and_hide_the_padding():
    rows = [np.full((2, 8, 6), grey, np.uint8) for grey in (10, 20)]
    picture = rows_of_pages(rows, np.array([3, 8]))
    step = 8 + GAP
    assert picture.shape == (2 * step, 2 * (6 + GAP))
    for row, grey in enumerate((10, 20)):
        line = picture[row * step : (row + 1) * step]
        assert (line[:3, :6] == grey).all()
        assert (line[3:, :6] == PAPER).all()
        assert (line[:8, 6 + GAP : 12 + GAP] == grey).all()
