"""Boxes found in pictures of layouts whose boxes are known."""

import pytest
import torch

from shards.reading.draw import draw
from vaetrain.evaluation.layout_statistics import QUANTILES, LayoutDistances, layout_statistics


def picture(boxes: list[list[float]], rows: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw boxes, x0, y0, x1, y1 in pixels, on a page 64 pixels wide."""
    heights = torch.tensor([rows])
    owner = torch.zeros(len(boxes), dtype=torch.long)
    return draw(torch.tensor(boxes), owner, heights, (rows, 64)), heights


PAGE = [0.0, 0, 64, 96]
HEADER = [4.0, 4, 60, 20]
CARDS = [[4.0, 30, 20, 46], [24.0, 30, 40, 46], [44.0, 30, 60, 46]]


def test_boxes_depth_and_sizes_are_those_of_the_layout():
    images, heights = picture([PAGE, HEADER, *CARDS, [6.0, 32, 18, 44]])
    count, depth, *sizes = layout_statistics(images, heights)[0].tolist()
    assert (count, depth) == (6, 3)
    # Roots of the areas, in page widths: 96 x 64, 56 x 16, three of 16 x 16, 12 x 12.
    expected = torch.tensor([12.0, 16, 16, 16, (56 * 16) ** 0.5, (96 * 64) ** 0.5]) / 64
    quantiles = torch.quantile(expected, torch.tensor(QUANTILES, dtype=torch.float32))
    assert sizes == pytest.approx(quantiles.tolist(), rel=1e-5)


def test_antialiased_edges_add_no_boxes():
    images, heights = picture([PAGE, [4.3, 4.6, 40.7, 30.2], [8.5, 8.5, 30.5, 20.5]])
    assert layout_statistics(images, heights)[0, :2].tolist() == [3, 3]


def test_padding_and_blank_pages():
    images, heights = picture([PAGE, HEADER])
    padded = torch.nn.functional.pad(images, (0, 0, 0, 32))
    assert torch.equal(layout_statistics(padded, heights), layout_statistics(images, heights))
    assert layout_statistics(torch.zeros(1, 1, 32, 64), torch.tensor([20])).abs().sum() == 0


def test_distances_are_those_of_shifted_distributions():
    few = layout_statistics(*picture([PAGE, HEADER]))
    many = layout_statistics(*picture([PAGE, HEADER, *CARDS]))
    first, second = few.expand(4, -1), many.expand(6, -1)
    distances = LayoutDistances.between(
        first, second, torch.full((4,), 1.5), torch.tensor([1.0, 2.0] * 3)
    )
    assert distances.boxes == 3
    assert distances.depth == 0
    assert distances.height == pytest.approx(0.5)
    assert distances.box_size == pytest.approx(float((few - many)[0, 2:].abs().mean()), rel=1e-5)
