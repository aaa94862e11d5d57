"""Random parameters of operations: how often they are applied, and how strongly."""

import pytest
import torch

from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.operations import CHOICES, OPS, Kind
from vaetrain.augmentation.parameters import applied_ops, sample_parameters
from vaetrain.augmentation.policy import OpSettings, Policy, load_policy

KEYS = torch.arange(10_000) * 7919


def test_operations_are_applied_independently_with_their_probabilities():
    policy = Policy({"rotate": OpSettings(0.3, 5.0), "flip": OpSettings(0.5, 1.0)})
    parameters = sample_parameters(policy, KEYS)
    rotated, flipped = parameters["rotate"].strength, parameters["flip"].strength
    assert (rotated > 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert set(rotated.tolist()) == {0.0, 5.0}
    both = ((rotated > 0) & (flipped > 0)).float().mean()
    assert both == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("ops", [1, 3, len(CHOICES)])
def test_randaugment_applies_its_number_of_operations(ops):
    config = AugmentConfig(policy="randaugment", ops=ops, level=0.5, denoise=False)
    parameters = sample_parameters(load_policy(config), KEYS)
    strengths = torch.stack([parameters[name].strength / OPS[name].full for name in CHOICES], 1)
    assert ((strengths > 0).sum(1) == ops).all()
    assert set(strengths.unique().tolist()) <= {0.0, 0.5}
    frequency = (strengths > 0).float().mean(0)  # all are equally likely
    assert (frequency - ops / len(CHOICES)).abs().max() < 0.02


def test_trivialaugment_applies_one_operation_at_uniform_strength():
    policy = load_policy(AugmentConfig(policy="trivialaugment", denoise=False))
    parameters = sample_parameters(policy, KEYS)
    levels = torch.stack([parameters[name].strength / OPS[name].full for name in CHOICES], 1)
    assert ((levels > 0).sum(1) <= 1).all()
    level = levels.amax(1)
    assert level.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist() == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.03
    )


def test_signed_uniforms_span_the_strength():
    rotate = sample_parameters(Policy({"rotate": OpSettings(0.5, 5.0)}), KEYS)["rotate"]
    signed = rotate.signed(2)
    is_applied = rotate.strength > 0
    assert (signed[~is_applied] == 0).all()
    low, high = signed[is_applied].aminmax(dim=0)
    assert low.tolist() == pytest.approx([-5, -5], abs=0.01)
    assert high.tolist() == pytest.approx([5, 5], abs=0.01)


def test_warps_are_applied_in_the_order_of_the_table():
    """Draws are by slot, but a page is scaled before it is shifted."""
    policy = Policy({name: OpSettings(1.0, 0.1) for name in ("crop", "translate", "scale", "flip")})
    applied = applied_ops(Kind.AXIS_ALIGNED, sample_parameters(policy, KEYS))
    assert [op.name for op, _, _ in applied] == ["flip", "scale", "translate", "crop"]
