"""Layout IoU against all matchings of boxes, by torchvision's IoU."""

import itertools
import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from vaetrain.evaluation.layout_iou import layout_iou, neighbour_iou


def random_boxes(count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.uniform(0, 20, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 6), (5, 2)])
def test_layout_iou_is_that_of_the_best_matching(n, m):
    first, second = random_boxes(n, 1), random_boxes(m, 2)
    table = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    table = table if n <= m else table.T
    sums = [
        sum(table[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(max(n, m)), min(n, m))
    ]
    assert layout_iou(first, second) == pytest.approx(max(sums) / max(n, m))
    assert 0 < layout_iou(first, second) < 1


def test_layout_iou_of_equal_partial_and_disjoint_layouts():
    boxes = random_boxes(6, 0)
    assert layout_iou(boxes, boxes[::-1]) == pytest.approx(1)
    assert layout_iou(boxes, boxes[:3]) == pytest.approx(0.5)
    assert layout_iou(boxes, boxes + 100) == 0
    empty = np.zeros((0, 4))
    assert layout_iou(empty, empty) == 1
    assert layout_iou(boxes, empty) == 0


def test_neighbour_iou_is_the_mean_over_existing_neighbours():
    boxes = [random_boxes(count, count) for count in (2, 3, 4)]
    values = neighbour_iou(torch.tensor([[1, 2], [0, -1], [-1, -1]]), boxes)
    expected = [layout_iou(boxes[0], boxes[other]) for other in (1, 2)]
    assert values[:2].tolist() == pytest.approx([np.mean(expected), expected[0]])
    assert math.isnan(values[2])
