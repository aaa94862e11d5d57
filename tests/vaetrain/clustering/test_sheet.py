"""The sheet of clusters: which pages it shows, and where."""

import io

import numpy as np
import pytest
from PIL import Image

from vaetrain.clustering import sheet
from vaetrain.clustering.methods import NOISE
from vaetrain.clustering.sheet import ClusterRow, draw_clusters, shortened, shown_pages


def test_typical_and_atypical_pages_are_of_different_templates():
    distances = np.array([0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.05, 0.9, 1.0])
    groups = np.array([0, 1, 1, 2, 3, 4, 5, 5, 6, 7, 8])
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    typical, atypical = shown_pages(labels, distances, groups, 0, medoid=8)
    assert typical == [1, 3, 4, 0]
    assert atypical == [9, 7, 5]
    assert shown_pages(labels, distances, groups, 1, medoid=10) == ([], [])
    assert shown_pages(np.full(11, NOISE), distances, groups, NOISE, None) == ([], [10, 9, 8 - 1])


HOSTILE = [
    "x" * 10**6,
    "\x1b[2J",
    "登录",
    "\u202egnp.exe\u2066",
    "<script>alert(1)</script>",
    "\0\n",
]


def page(rows: int, grey: int, width: int = sheet.PAGE_WIDTH) -> np.ndarray:
    return np.full((rows, width), grey, np.uint8)


def drawn(rows: list[ClusterRow]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw_clusters("title", "subtitle", rows))))


@pytest.mark.parametrize("width", [sheet.PAGE_WIDTH, 64])
def test_pages_are_drawn_in_their_columns_and_tall_ones_are_cut(width):
    pages = [page(600, 10, width), page(40, 60, width), page(600, 90, width)]
    row = ClusterRow(0, ["3 pages"], *([one] for one in pages), np.array([0.1, 0.4, 0.5]))
    picture, lefts = drawn([row, row]), sheet._columns()
    for name, grey in (("medoid", 10), ("typical", 60), ("atypical", 90)):
        column = picture[:, lefts[name] + sheet.PAGE_WIDTH // 2]
        for top in (sheet.HEAD, sheet.HEAD + sheet.PAGE_ROWS + sheet.SECTION):
            part = column[top + 5 : top + sheet.PAGE_ROWS - 5]
            assert (part[:10] == grey).all()
            assert (part[-1] == (sheet.PAPER if name == "typical" else grey)).all()
        assert (column[sheet.HEAD + sheet.PAGE_ROWS + 5] != grey).all()


def test_a_cluster_without_pages_or_spread_is_drawn():
    rows = [
        ClusterRow(0, [], [page(20, 10)], [], [], np.array([0.0])),
        ClusterRow(NOISE, HOSTILE, [], [], [], np.array([0.0, 0.0])),
    ]
    assert drawn(rows).shape[2] == 3


def test_long_texts_are_shortened():
    assert shortened("abc") == "abc"
    assert shortened("a" * 10**6, 10) == "aaaaaaa..."
