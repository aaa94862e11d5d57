"""Edits of boxes: distances, shares, and the page's own box."""

import pytest
import torch

from tests.vaetrain.augmentation.sample_batches import HEIGHTS, WIDTH, a_batch, fixed_params, only
from vaetrain.augmentation.boxes import clip_to_page, edit_boxes

PAGES, COUNT = 40, 101
SIDE = 20.0


@pytest.fixture
def boxes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pages of many boxes of one size, their owners and keys."""
    page = torch.tensor([[0, 0, 64, 64.0]]).repeat(COUNT, 1)
    page[1:] = torch.tensor([10, 10, 10 + SIDE, 10 + SIDE])
    keys = torch.arange(PAGES) * 7919
    return page.repeat(PAGES, 1).double(), torch.arange(PAGES).repeat_interleave(COUNT), keys


def test_boxes_are_clipped_to_their_own_page():
    edges = torch.tensor([[-3.0, -5.0, 70.0, 50.0], [2.0, 30.0, 60.0, 90.0]])
    clipped = clip_to_page(edges, torch.tensor([0, 1]), torch.tensor([40, 80]), WIDTH)
    assert clipped.tolist() == [[0, 0, WIDTH, 40], [2, 30, 60, 80]]


@pytest.mark.parametrize(("strength", "reach"), [(0.02, 0.02 * WIDTH), (0.5, SIDE / 4)])
def test_jitter_moves_edges_independently_and_symmetrically(boxes, strength, reach):
    before, owner, keys = boxes
    after = edit_boxes(before, owner, WIDTH, {"jitter": fixed_params(strength, [], PAGES)}, keys)
    moved = (after - before).view(PAGES, COUNT, 4)
    assert (moved[:, 0] == 0).all()  # the page
    moved = moved[:, 1:].flatten(0, 1)
    assert moved.abs().max() <= reach
    assert moved.abs().max() > 0.99 * reach
    torch.testing.assert_close(moved.mean(0), torch.zeros(4).double(), rtol=0, atol=0.04 * reach)
    expected = torch.full((4,), reach / 3**0.5).double()  # of a uniform distribution
    torch.testing.assert_close(moved.std(0), expected, rtol=0.03, atol=0)
    assert (moved.T.corrcoef() - torch.eye(4)).abs().max() < 0.05


def test_dropout_removes_its_share_of_whole_boxes(boxes):
    before, owner, keys = boxes
    after = edit_boxes(before, owner, WIDTH, {"dropout": fixed_params(0.3, [], PAGES)}, keys)
    is_out = (after == 0).all(1)
    assert torch.equal(after[~is_out], before[~is_out])
    is_out = is_out.view(PAGES, COUNT)
    assert not is_out[:, 0].any()
    assert is_out[:, 1:].float().mean() == pytest.approx(0.3, abs=0.03)
    assert len(is_out.unique(dim=0)) == PAGES  # each page loses other boxes


def test_dropout_is_independent_of_jitter(boxes):
    before, owner, keys = boxes
    both = {
        "dropout": fixed_params(0.3, [], PAGES),
        "jitter": fixed_params(0.02, [], PAGES),
    }
    after = edit_boxes(before, owner, WIDTH, both, keys)
    jitter_only = edit_boxes(before, owner, WIDTH, {"jitter": both["jitter"]}, keys)
    is_out = (after == 0).all(1)
    assert torch.equal(after[~is_out], jitter_only[~is_out])
    moved = (jitter_only - before).abs()[owner.diff(prepend=owner[:1] - 1) == 0]
    out = is_out[owner.diff(prepend=owner[:1] - 1) == 0].double()
    for edge in moved.T:
        assert abs(float(torch.stack([edge, out]).corrcoef()[0, 1])) < 0.05


def test_dropout_never_removes_the_page():
    _, emptied = only("dropout", 1.0)(a_batch(), seed=0)
    page = torch.full((1,), 1 / 40)
    for number, height in enumerate(HEIGHTS):
        assert (emptied[number, 0, :height] == page).all()
