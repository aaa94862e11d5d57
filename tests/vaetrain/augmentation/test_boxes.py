"""Boxes that are disturbed, left out and added: how many, how far, and never off the page."""

import pytest
import torch

from tests.vaetrain.augmentation.sample_batches import HEIGHTS, WIDTH, a_batch, drawn, only
from vaetrain.augmentation.added import add_boxes
from vaetrain.augmentation.boxes import disturb

PAGES, COUNT = 40, 101
SIDE = 20.0


@pytest.fixture
def boxes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pages of many boxes of one size, their owners and keys."""
    page = torch.tensor([[0, 0, 64, 64.0]]).repeat(COUNT, 1)
    page[1:] = torch.tensor([10, 10, 10 + SIDE, 10 + SIDE])
    keys = torch.arange(PAGES) * 7919
    return page.repeat(PAGES, 1).double(), torch.arange(PAGES).repeat_interleave(COUNT), keys


@pytest.mark.parametrize(("strength", "reach"), [(0.02, 0.02 * WIDTH), (0.5, SIDE / 4)])
def test_jitter_moves_each_edge_on_its_own_and_as_far_either_way(boxes, strength, reach):
    before, owner, keys = boxes
    after = disturb(before, owner, WIDTH, {"jitter": drawn(strength, [], PAGES)}, keys)
    moved = (after - before).view(PAGES, COUNT, 4)
    assert (moved[:, 0] == 0).all()  # the page
    moved = moved[:, 1:].flatten(0, 1)
    assert moved.abs().max() <= reach
    assert moved.abs().max() > 0.99 * reach
    torch.testing.assert_close(moved.mean(0), torch.zeros(4).double(), rtol=0, atol=0.04 * reach)
    expected = torch.full((4,), reach / 3**0.5).double()  # of a uniform distribution
    torch.testing.assert_close(moved.std(0), expected, rtol=0.03, atol=0)
    assert (moved.T.corrcoef() - torch.eye(4)).abs().max() < 0.05


def test_dropout_leaves_out_its_share_of_boxes_wholly(boxes):
    before, owner, keys = boxes
    after = disturb(before, owner, WIDTH, {"dropout": drawn(0.3, [], PAGES)}, keys)
    is_out = (after == 0).all(1)
    assert torch.equal(after[~is_out], before[~is_out])
    is_out = is_out.view(PAGES, COUNT)
    assert not is_out[:, 0].any()
    assert is_out[:, 1:].float().mean() == pytest.approx(0.3, abs=0.03)
    assert len(is_out.unique(dim=0)) == PAGES  # other ones on every page


def test_dropout_never_leaves_out_the_page():
    _, emptied = only("dropout", 1.0)(a_batch(), seed=0)
    page = torch.full((1,), 1 / 40)
    for number, height in enumerate(HEIGHTS):
        assert (emptied[number, 0, :height] == page).all()


@pytest.mark.parametrize(("name", "of_each"), [("lines", 1), ("boxes", 1), ("text", 7)])
def test_added_boxes_are_as_many_as_asked_and_lie_on_the_page(name, of_each):
    pages, strength = 2000, 1.5
    heights = torch.arange(pages) % 90 + 6
    draws = {name: drawn(strength, [], pages)}
    boxes, owner = add_boxes(heights, WIDTH, draws, torch.arange(pages) * 7919)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert (boxes[~has_area] == 0).all()
    filled = has_area.view(-1, of_each).any(1).sum() / pages
    assert filled == pytest.approx(strength, abs=0.05)
    assert (boxes >= 0).all()
    if name != "text":  # of a text that is cut off by a low page, the rows run on below it
        assert (boxes[:, 3] <= heights[owner]).all()
    assert (boxes[:, 2] <= WIDTH).all()
