"""A policy's draws for a batch: for every page the strength of every operation."""

from typing import NamedTuple

import torch
from torch import Tensor

from shards.randomness import uniform
from vaetrain.augmentation.policy import CHOICES, OPS, Chance, Policy

SPARE = 8  # uniforms an operation may use for its own parameters
_DRAWS = 2 + SPARE  # the first decides whether it happens, the second how strongly


class Drawn(NamedTuple):
    """One operation's draws.

    strength: float32 (B,), 0 for the pages that it leaves alone.
    u: float32 (B, 8), uniform in [0, 1), for its parameters.
    """

    strength: Tensor
    u: Tensor

    def signed(self, count: int) -> Tensor:
        """`count` uniforms in [-strength, strength) for every page: float32 (B, count)."""
        return (2 * self.u[:, :count] - 1) * self.strength.unsqueeze(1)


def draw_strengths(policy: Policy, keys: Tensor) -> dict[str, Drawn]:
    """The draws of every operation that the policy uses.

    Args:
        keys: Long (B,), one key a page.
    """
    positions = torch.arange(len(OPS) * _DRAWS, device=keys.device)
    draws = uniform(keys.unsqueeze(1), positions).unflatten(1, (len(OPS), _DRAWS))
    by_name = dict(zip(OPS, draws.unbind(1), strict=True))
    return {
        name: Drawn(_strength(policy, name, by_name), u[:, 2:])
        for name, u in by_name.items()
        if policy.uses(name)
    }


def _strength(policy: Policy, name: str, draws: dict[str, Tensor]) -> Tensor:
    gate, level = draws[name][:, 0], draws[name][:, 1]
    chance = policy.chances.get(name, Chance(0.0, 0.0))
    strength = (gate < chance.probability) * chance.magnitude
    if policy.choose == 0 or name not in CHOICES:
        return strength
    # Every page's operations with the lowest gates: as many as are to be chosen, all as likely.
    gates = torch.stack([draws[choice][:, 0] for choice in CHOICES], 1)
    is_chosen = gate <= gates.sort(1).values[:, policy.choose - 1]
    level = level if policy.level is None else policy.level
    return torch.maximum(strength, is_chosen * level * OPS[name].full)
