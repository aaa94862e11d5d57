"""Table of operations: slots, functions, and a new operation added by one row."""

import pytest
import torch

from tests.vaetrain.augmentation.sample_batches import STORED, a_batch, only
from vaetrain.augmentation import operations
from vaetrain.augmentation.operations import OPS, Kind, Op, load_function
from vaetrain.augmentation.parameters import OpParameters, sample_parameters
from vaetrain.augmentation.pipeline import Augment
from vaetrain.augmentation.policy import OpSettings, Policy

# The slots decide each operation's random draws, and order the draws of a policy search.
SLOTS = [
    *("flip", "translate", "scale", "crop", "jitter", "dropout", "lines", "boxes", "text"),
    *("rotate", "perspective", "brightness", "contrast", "tone", "noise", "salt_pepper", "erase"),
]
DRAWS = {"flip": 0.11954253911972046, "scale": 0.1755692958831787, "erase": 0.7207778096199036}


def test_slots_stay_as_released():
    assert list(OPS)[: len(SLOTS)] == SLOTS
    assert [op.slot for op in OPS.values()] == list(range(len(OPS)))


def test_draws_of_operations_stay_as_released():
    """Other values would change every augmented training."""
    policy = Policy({name: OpSettings(1.0, 1.0) for name in SLOTS})
    parameters = sample_parameters(policy, torch.tensor([12345]))
    assert {name: float(parameters[name].uniforms[0, 0]) for name in DRAWS} == DRAWS


@pytest.mark.parametrize("name", OPS)
def test_every_row_names_a_function_and_its_limits(name):
    op = OPS[name]
    assert callable(load_function(op))
    assert 0 < op.full <= op.maximum


def invert(images, params: OpParameters, keys, heights):
    """Replace values by one minus them, where the strength is not 0."""
    share = (params.strength > 0).view(-1, 1, 1, 1)
    return images.copy_(torch.where(share, 1 - images, images))


def halve(params: OpParameters):
    """Return a factor of 0.5 where the strength is not 0."""
    return 1 - 0.5 * (params.strength > 0)


def to_left_edge(boxes, params: OpParameters):
    """Move boxes to the page's left edge."""
    return boxes.edges - boxes.edges[:, :1] * boxes.edges.new_tensor([1, 0, 1, 0])


NEW = {
    "invert": (Kind.CORRUPTION, invert),
    "halve": (Kind.BRIGHTNESS, halve),
    "to_left_edge": (Kind.BOX_EDIT, to_left_edge),
}


@pytest.fixture(params=NEW)
def new_op(request, monkeypatch) -> Op:
    """Operation that consists of one more row in the table and the function named there."""
    kind, function = NEW[request.param]
    path = f"{__name__}.{function.__name__}"
    op = Op(request.param, len(OPS), kind, path, "for this test", full=1.0, maximum=1.0)
    monkeypatch.setattr(operations, "TABLE", (*operations.TABLE, op))
    monkeypatch.setitem(OPS, op.name, op)
    return op


def test_a_new_row_is_applied(new_op):
    batch = a_batch()
    inputs, targets = only(new_op.name, 1.0)(batch, seed=0)
    assert not torch.equal(inputs, batch.images())
    assert torch.equal(targets, batch.images()) == new_op.corrupts


@pytest.mark.parametrize("stored", STORED)
def test_a_new_row_changes_no_other_operation(monkeypatch, stored):
    policy = Policy({name: OpSettings(1.0, OPS[name].full / 2) for name in OPS})
    batch, augment = STORED[stored](a_batch()), Augment(policy)
    before = augment(batch, seed=3)
    op = Op("new", len(OPS), Kind.CORRUPTION, f"{__name__}.invert", "", full=1.0, maximum=1.0)
    monkeypatch.setattr(operations, "TABLE", (op, *operations.TABLE))
    monkeypatch.setitem(OPS, op.name, op)
    for after, expected in zip(augment(batch, seed=3), before, strict=True):
        assert torch.equal(after, expected)
