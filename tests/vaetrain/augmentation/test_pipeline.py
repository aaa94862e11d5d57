"""Augmentation as a whole: nothing at no strength, and blind to how a batch is cut."""

import random

import pytest
import torch

from tests.vaetrain.augmentation.sample_batches import (
    HEIGHTS,
    KINDS,
    ROWS,
    WIDTH,
    a_batch,
    named,
    only,
    part_of,
)
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import NAMES, OPS, load_policy


@pytest.fixture(params=KINDS)
def kind(request):
    """Pages as boxes or as pictures: what makes the one of the other."""
    return KINDS[request.param]


def test_none_is_the_page_itself(kind):
    batch = kind(a_batch())
    inputs, targets = named("none")(batch, seed=0)
    assert inputs is targets
    assert torch.equal(targets, batch.images())


@pytest.mark.parametrize("name", OPS)
def test_at_no_strength_nothing_happens(name, kind):
    for augment in (only(name, 0.0), only(name, OPS[name].full, probability=0.0)):
        inputs, targets = augment(kind(a_batch()), seed=0)
        assert torch.equal(inputs, targets)
        assert torch.equal(targets, kind(a_batch()).images())


@pytest.mark.parametrize("name", OPS)
def test_a_page_that_is_left_alone_is_not_touched_though_others_are(name, kind):
    augment, clean = only(name, OPS[name].full, probability=0.5), kind(a_batch()).images()
    untouched = [
        torch.equal(*pair)
        for seed in range(3)
        for pair in zip(augment(kind(a_batch()), seed=seed)[0], clean, strict=True)
    ]
    if name in ("jitter", "dropout") and kind is KINDS["pictures"]:
        assert all(untouched)
    else:
        assert True in untouched
        assert False in untouched


@pytest.mark.parametrize("name", OPS)
def test_at_full_strength_something_happens_on_the_page_alone(name):
    inputs, targets = only(name, OPS[name].full)(a_batch(), seed=0)
    clean = a_batch().images()
    assert not torch.equal(inputs, clean)
    assert torch.equal(targets, clean) == OPS[name].corrupts
    for image in (inputs, targets):
        assert ((image >= 0) & (image <= 1)).all()
        for number, height in enumerate(HEIGHTS):
            assert (image[number, :, height:] == 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_a_page_is_augmented_the_same_in_any_batch(name, kind):
    """In any partition and order: the bits at equal padding, nearly so otherwise."""
    batch, augment = a_batch(), named(name)
    whole = augment(kind(batch), seed=3)
    shuffled = list(range(len(HEIGHTS)))
    random.Random(0).shuffle(shuffled)
    for places in ([0], [1, 2, 3], [4, 5], shuffled):
        for rows in (ROWS, 160):
            part = augment(kind(part_of(batch, places, rows)), seed=3)
            for ours, theirs in zip(part, whole, strict=True):
                expected = theirs[places]
                if rows == ROWS:
                    assert torch.equal(ours, expected)
                else:
                    torch.testing.assert_close(ours[:, :, :ROWS], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["translate", "scale", "rotate", "perspective"])
def test_what_lies_outside_the_canvas_never_enters_it(name):
    outside, nowhere = a_batch(), a_batch()
    last_of_pages = slice(12, None, 13)
    for number, height in enumerate(HEIGHTS):
        below = torch.tensor([5.0, height + 0.5, WIDTH - 5.0, height + 60.0])
        outside.boxes[last_of_pages][number] = below
    nowhere.boxes[last_of_pages] = 0
    augment = only(name, OPS[name].full)
    assert torch.equal(augment(outside, seed=0)[1], augment(nowhere, seed=0)[1])


@pytest.mark.parametrize("name", ["translate", "scale", "rotate", "perspective"])
def test_what_is_uncovered_is_background(name, kind):
    """A page that is one box, white nearly: what does not come from it is exactly 0."""
    batch = a_batch()
    batch.boxes.view(len(HEIGHTS), 13, 4)[:] = batch.boxes.view(len(HEIGHTS), 13, 4)[:, :1]
    value = 13 / 40
    _, targets = only(name, OPS[name].full)(kind(batch), seed=2)
    pages = zip(targets[:, 0], HEIGHTS, strict=True)
    uncovered = [(page[:height] == 0).float().mean() for page, height in pages]
    assert max(uncovered) > 0.05
    assert targets.max() <= value + 1e-3


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 1}])
def test_other_seeds_and_epochs_give_other_pages(change):
    augment = named("default")
    first = augment(a_batch(), seed=3)[0]
    other = augment(a_batch(epoch=change.get("epoch", 0)), seed=change.get("seed", 3))[0]
    assert not torch.equal(first, other)


def test_a_clean_input_where_denoising_is_off():
    policy = load_policy(AugmentConfig(policy="strong", denoise=False))
    inputs, targets = Augment(policy)(a_batch(), seed=0)
    assert inputs is targets
