"""Random parameters of a batch: for every page the strength of every operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shards.randomness import uniform
from vaetrain.augmentation.operations import CHOICES, OPS, Kind, Op, load_function, ops_of_kind
from vaetrain.augmentation.policy import OpSettings, Policy

UNIFORMS = 8  # uniform numbers that an operation may use for its own parameters
_DRAWS = 2 + UNIFORMS  # the first decides whether it is applied, the second its level


class OpParameters(NamedTuple):
    """Random parameters of one operation for a batch.

    Attributes:
        strength: float32 (B,), 0 for the pages that the operation leaves unchanged.
        uniforms: float32 (B, 8), uniform in [0, 1).
    """

    strength: Tensor
    uniforms: Tensor

    def signed(self, count: int) -> Tensor:
        """Return `count` uniform numbers in [-strength, strength) a page: float32 (B, count)."""
        return (2 * self.uniforms[:, :count] - 1) * self.strength.unsqueeze(1)


Parameters = dict[str, OpParameters]
"""Parameters by operation; those that the policy does not use are absent."""


class AppliedOp(NamedTuple):
    """Operation of a batch with its function and its parameters."""

    op: Op
    function: Callable[..., Any]
    params: OpParameters


def sample_parameters(policy: Policy, keys: Tensor) -> Parameters:
    """Draw the parameters of every operation that the policy uses.

    Args:
        keys: Long (B,), one key a page.
    """
    positions = torch.arange(len(OPS) * _DRAWS, device=keys.device)
    draws = uniform(keys.unsqueeze(1), positions).unflatten(1, (len(OPS), _DRAWS))
    by_name = dict(zip(OPS, draws.unbind(1), strict=True))
    return {
        name: OpParameters(_strength(policy, name, by_name), draws[:, 2:])
        for name, draws in by_name.items()
        if policy.uses(name)
    }


def applied_ops(kind: Kind, parameters: Parameters) -> list[AppliedOp]:
    """Return the operations of a kind that have parameters, in order of application."""
    return [
        AppliedOp(op, load_function(op), parameters[op.name])
        for op in ops_of_kind(kind)
        if op.name in parameters
    ]


def _strength(policy: Policy, name: str, draws: dict[str, Tensor]) -> Tensor:
    gate, level = draws[name][:, 0], draws[name][:, 1]
    settings = policy.operations.get(name, OpSettings(0.0, 0.0))
    strength = (gate < settings.probability) * settings.magnitude
    if policy.random_count == 0 or name not in CHOICES:
        return strength
    # On every page the operations with the lowest gates are chosen: all are equally likely.
    gates = torch.stack([draws[choice][:, 0] for choice in CHOICES], 1)
    is_chosen = gate <= gates.sort(1).values[:, policy.random_count - 1]
    level = level if policy.random_level is None else policy.random_level
    return torch.maximum(strength, is_chosen * level * OPS[name].full)
