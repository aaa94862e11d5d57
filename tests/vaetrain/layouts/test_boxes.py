"""Boxes found in pictures: known answers, real pages, and bounds for pages without boxes."""

import gzip
import json
import time

import numpy as np
import pytest

from shards.format.layout import MAX_DEPTH, parse_layout
from tests.vaetrain.pages_one_by_one import SAMPLE_FILE
from vaetrain.layouts.boxes import MAX_BOXES, draw_coverage, find_boxes

PAGE = [0, 0, 64, 40]


def drawn(boxes: list | np.ndarray, height: int = 40, width: int = 64) -> np.ndarray:
    cover = draw_coverage(np.array(boxes, np.float64).reshape(-1, 4), height, width)
    return np.minimum(cover / MAX_DEPTH, 1).astype(np.float32)


@pytest.mark.parametrize(
    "boxes",
    [
        [PAGE],
        [PAGE, [4, 4, 30, 36], [6, 6, 10, 9], [12, 6, 28, 9], [33, 4, 60, 39]],
        [PAGE, PAGE, [1, 1, 63, 39], [2, 2, 62, 38], [2, 2, 62, 38]],
        [PAGE, [3, 5, 61, 6], [3, 7, 61, 8], [3, 9, 4, 30]],
        [PAGE, [1.3, 1.7, 30.2, 38.4], [3.5, 3.25, 10.4, 8.1], [31.4, 2.5, 60.25, 30.5]],
        [[2, 2, 20, 10], [22, 2, 40, 10]],
    ],
    ids=["page", "siblings", "equal boxes", "lines", "parts of pixels", "several roots"],
)
def test_a_drawn_layout_comes_back(boxes):
    found = find_boxes(drawn(boxes))
    np.testing.assert_allclose(found.boxes, boxes, atol=0.011)
    around = [-1 if p < 0 else boxes[p] for p in found.parents]
    for box, outer in zip(boxes, around, strict=True):
        assert outer == -1 or (outer[0] <= box[0] and outer[3] >= box[3])


def test_forty_nested_boxes_come_back():
    boxes = [[i, i, 128 - i, 128 - i] for i in range(MAX_DEPTH)]
    found = find_boxes(drawn(boxes, 128, 128))
    np.testing.assert_array_equal(found.boxes, boxes)
    assert found.parents.tolist() == list(range(-1, MAX_DEPTH - 1))
    assert len(find_boxes(drawn([PAGE] * 50)).boxes) == MAX_DEPTH  # white is the deepest


def test_edges_of_nested_boxes_in_one_pixel_are_equal():
    """Their coverages are known as a sum only."""
    boxes = [PAGE, [4.3, 4, 60, 36], [4.3, 4, 30, 30], [4.3, 4, 20, 20]]
    np.testing.assert_allclose(find_boxes(drawn(boxes)).boxes, boxes, atol=0.011)


@pytest.mark.parametrize(
    "boxes",
    [
        [PAGE, [4, 4, 30, 20], [30, 4, 50, 30]],
        [PAGE, [4, 4, 30, 20], [20, 10, 50, 30]],
        [PAGE, [4, 4, 30, 20], [10, 10, 20, 36]],
    ],
    ids=["touching", "overlapping", "out of the parent"],
)
def test_boxes_of_other_regions_are_drawn_again_exactly(boxes):
    page = drawn(boxes)
    np.testing.assert_allclose(drawn(find_boxes(page).boxes), page, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 64), (40, 1), (1, 1), (16, 16)])
def test_empty_and_tiny_pages(shape):
    assert len(find_boxes(np.zeros(shape)).boxes) == 0
    full = find_boxes(np.full(shape, 2 / MAX_DEPTH))
    assert full.boxes.tolist() == 2 * [[0, 0, shape[1], shape[0]]]


def test_values_that_are_no_depth_are_clipped():
    page = drawn([PAGE, [4, 4, 30, 20]])
    page[30:, 40:] = np.nan
    page[30:, :20] = -np.inf
    assert find_boxes(page).boxes.min() >= 0
    assert len(find_boxes(np.full((8, 8), np.inf)).boxes) == MAX_DEPTH


def test_specks_are_dropped():
    boxes = [PAGE, [4, 4, 30, 20], [40.2, 10.2, 40.9, 10.9], [50, 10, 50.5, 30]]
    assert find_boxes(drawn(boxes)).boxes.tolist() == boxes[:2]


def test_a_page_of_noise_has_bounded_boxes_and_time():
    page = np.random.default_rng(0).random((512, 128))
    start = time.process_time()
    found = find_boxes(page)
    assert time.process_time() - start < 10  # 1.5 s where it was measured
    assert 0 < len(found.boxes) <= MAX_BOXES


def test_real_pages_are_drawn_again():
    """Most boxes that are eight pixels wide and high are found, too."""
    with gzip.open(SAMPLE_FILE, "rt") as lines:
        layouts = [parse_layout(json.loads(line)) for line, _ in zip(lines, range(8), strict=False)]
    large = known = 0
    for layout in layouts:
        boxes = layout.boxes * (128 / layout.width)
        height = min(512, round(layout.height * 128 / layout.width))
        page = drawn(boxes, height, 128)
        found = find_boxes(page).boxes
        assert np.abs(drawn(found, height, 128) - page).mean() < 0.004
        boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 8).all(1) & (boxes[:, 3] < height)]
        nearest = np.abs(boxes[:, None] - found).max(2).min(1)
        large, known = large + len(boxes), known + int((nearest < 1).sum())
    assert known / large > 0.5  # touching boxes cannot be told apart
