"""Visible boxes, and boxes that agree with others."""

import numpy as np

from benchmarks.support.visible_boxes import agreeing, distinct, visible_boxes
from shards.format.layout import Layout


def layout(boxes: list) -> Layout:
    return Layout(640, 400, np.array(boxes, np.int16), 2, {})


def test_boxes_that_cannot_be_seen_are_left_out():
    page, box = [0, 0, 640, 400], [50, 50, 200, 100]
    hidden = [[52, 50, 200, 102], [300, 50, 308, 200]]  # coincides; thinner than a pixel
    found = visible_boxes(layout([page, box, *hidden]), 64, 40)
    assert found.tolist() == [[0, 0, 64, 40], [5, 5, 20, 10]]


def test_touching_boxes_have_no_visible_side_between_them():
    row = [[50, 50, 200, 100], [200, 50, 350, 100]]
    assert visible_boxes(layout([[0, 0, 640, 400], *row]), 64, 40).tolist() == [[0, 0, 64, 40]]
    apart = [row[0], [210, 50, 350, 100]]
    assert len(visible_boxes(layout([[0, 0, 640, 400], *apart]), 64, 40)) == 3


def test_boxes_agree_one_to_one():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10.0]])
    assert agreeing(boxes, boxes) == 2
    assert agreeing(boxes, boxes[[0, 0]]) == 1
    assert agreeing(boxes, boxes + np.array([0, 0, 0.5, 0.5])) == 2
    assert agreeing(boxes, boxes + np.array([0, 0, 1, 1])) == 0
    assert agreeing(boxes[:0], boxes) == 0
    assert len(distinct(np.concatenate([boxes, boxes + 0.4]))) == 2
