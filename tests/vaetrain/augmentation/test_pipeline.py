"""Augmentation as a whole: strength 0 changes nothing, and results do not depend on the batch."""

import random

import pytest
import torch

from tests.vaetrain.augmentation.sample_batches import (
    HEIGHTS,
    ROWS,
    STORED,
    WIDTH,
    a_batch,
    named,
    only,
    part_of,
)
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.operations import OPS
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import NAMES, load_policy


@pytest.fixture(params=STORED)
def stored(request):
    """Function that turns a batch of boxes into pages as shards store them: boxes or pictures."""
    return STORED[request.param]


def test_policy_none_returns_the_page_itself(stored):
    batch = stored(a_batch())
    inputs, targets = named("none")(batch, seed=0)
    assert inputs is targets
    assert torch.equal(targets, batch.images())


@pytest.mark.parametrize("name", OPS)
def test_strength_or_probability_0_changes_nothing(name, stored):
    for augment in (only(name, 0.0), only(name, OPS[name].full, probability=0.0)):
        inputs, targets = augment(stored(a_batch()), seed=0)
        assert torch.equal(inputs, targets)
        assert torch.equal(targets, stored(a_batch()).images())


@pytest.mark.parametrize("name", OPS)
def test_pages_without_the_operation_are_bit_identical(name, stored):
    augment, clean = only(name, OPS[name].full, probability=0.5), stored(a_batch()).images()
    untouched = [
        torch.equal(*pair)
        for seed in range(3)
        for pair in zip(augment(stored(a_batch()), seed=seed)[0], clean, strict=True)
    ]
    if name in ("jitter", "dropout") and stored is STORED["pictures"]:
        assert all(untouched)
    else:
        assert True in untouched
        assert False in untouched


@pytest.mark.parametrize("name", OPS)
def test_full_strength_changes_the_page_and_not_the_padding(name):
    inputs, targets = only(name, OPS[name].full)(a_batch(), seed=0)
    clean = a_batch().images()
    assert not torch.equal(inputs, clean)
    assert torch.equal(targets, clean) == OPS[name].corrupts
    for image in (inputs, targets):
        assert ((image >= 0) & (image <= 1)).all()
        for number, height in enumerate(HEIGHTS):
            assert (image[number, :, height:] == 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_a_page_is_augmented_identically_in_any_batch(name, stored):
    """For any partition and order: bit-identical at equal padding, within 1e-6 otherwise."""
    batch, augment = a_batch(), named(name)
    whole = augment(stored(batch), seed=3)
    shuffled = list(range(len(HEIGHTS)))
    random.Random(0).shuffle(shuffled)
    for places in ([0], [1, 2, 3], [4, 5], shuffled):
        for rows in (ROWS, 160):
            part = augment(stored(part_of(batch, places, rows)), seed=3)
            for actual, complete in zip(part, whole, strict=True):
                expected = complete[places]
                if rows == ROWS:
                    assert torch.equal(actual, expected)
                else:
                    torch.testing.assert_close(actual[:, :, :ROWS], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["translate", "scale", "rotate", "perspective"])
def test_boxes_outside_the_canvas_never_enter_it(name):
    outside, empty = a_batch(), a_batch()
    last_of_pages = slice(12, None, 13)
    for number, height in enumerate(HEIGHTS):
        below = torch.tensor([5.0, height + 0.5, WIDTH - 5.0, height + 60.0])
        outside.boxes[last_of_pages][number] = below
    empty.boxes[last_of_pages] = 0
    augment = only(name, OPS[name].full)
    assert torch.equal(augment(outside, seed=0)[1], augment(empty, seed=0)[1])


@pytest.mark.parametrize("name", ["translate", "scale", "rotate", "perspective"])
def test_uncovered_parts_are_0(name, stored):
    """The page is one bright box, so that every pixel outside it must be exactly 0."""
    batch = a_batch()
    batch.boxes.view(len(HEIGHTS), 13, 4)[:] = batch.boxes.view(len(HEIGHTS), 13, 4)[:, :1]
    value = 13 / 40
    _, targets = only(name, OPS[name].full)(stored(batch), seed=2)
    pages = zip(targets[:, 0], HEIGHTS, strict=True)
    uncovered = [(page[:height] == 0).float().mean() for page, height in pages]
    assert max(uncovered) > 0.05
    assert targets.max() <= value + 1e-3


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 1}])
def test_another_seed_or_epoch_gives_another_page(change):
    augment = named("default")
    first = augment(a_batch(), seed=3)[0]
    other = augment(a_batch(epoch=change.get("epoch", 0)), seed=change.get("seed", 3))[0]
    assert not torch.equal(first, other)


def test_without_denoising_input_and_target_are_one_tensor():
    policy = load_policy(AugmentConfig(policy="strong", denoise=False))
    inputs, targets = Augment(policy)(a_batch(), seed=0)
    assert inputs is targets
