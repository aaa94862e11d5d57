"""Added boxes: their number, and that they lie on the page."""

import pytest
import torch

from tests.vaetrain.augmentation.sample_batches import WIDTH, fixed_params
from vaetrain.augmentation.added_boxes import add_boxes

PAGES, STRENGTH = 2000, 1.5
HEIGHTS = torch.arange(PAGES) % 90 + 6
KEYS = torch.arange(PAGES) * 7919
OPERATIONS = [("lines", 1), ("boxes", 1), ("text", 7)]


def added(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of one operation, and the page of each."""
    return add_boxes(HEIGHTS, WIDTH, {name: fixed_params(STRENGTH, [], PAGES)}, KEYS)


@pytest.mark.parametrize(("name", "boxes_each"), OPERATIONS)
def test_strength_is_the_mean_number_added(name, boxes_each):
    boxes, _ = added(name)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert (boxes[~has_area] == 0).all()
    filled = has_area.view(-1, boxes_each).any(1).sum() / PAGES
    assert filled == pytest.approx(STRENGTH, abs=0.05)


@pytest.mark.parametrize(("name", "boxes_each"), OPERATIONS)
def test_added_boxes_lie_on_their_page(name, boxes_each):
    boxes, owner = added(name)
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= WIDTH).all()
    # Rows of a text block that a low page cuts off continue below the page; drawing clips them.
    frames = slice(None, None, boxes_each)
    assert (boxes[frames, 3] <= HEIGHTS[owner[frames]]).all()


def test_operations_draw_independently():
    lines, _ = added("lines")
    boxes, _ = added("boxes")
    filled = torch.stack([(part[:, 2] > 0).double() for part in (lines, boxes)])
    second_place = filled.view(2, PAGES, 4)[:, :, 1].flatten(1)  # place 1 is filled half the time
    assert abs(float(second_place.corrcoef()[0, 1])) < 0.07
