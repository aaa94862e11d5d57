"""Which samples are validated on: whole groups, so that no template is on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence


def stable_order(names: Sequence[str], seed: int, purpose: str) -> list[int]:
    """A shuffle of positions that depends on the names and the seed, not on where they stand."""

    def key(position: int) -> tuple[bytes, int]:
        text = f"{purpose}/{seed}/{names[position]}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest(), position

    return sorted(range(len(names)), key=key)


def validation_groups(groups: Sequence[str], fraction: float, seed: int) -> set[str]:
    """The groups that make up about `fraction` of the samples.

    In a shuffled order each group is taken that brings the share nearer to the fraction. Where
    there are two groups or more and the fraction is above 0, each side gets at least one.

    Args:
        groups: the group of each sample.
    """
    sizes = Counter(groups)
    names = sorted(sizes)
    shuffled = [names[position] for position in stable_order(names, seed, "split")]
    wanted = fraction * len(groups)
    chosen: set[str] = set()
    taken = 0
    for name in shuffled:
        if abs(taken + sizes[name] - wanted) < abs(taken - wanted):
            chosen.add(name)
            taken += sizes[name]
    smallest = min(shuffled, key=lambda name: sizes[name])
    if len(names) > 1 and fraction > 0 and not chosen:
        return {smallest}
    if len(names) > 1 and fraction < 1 and len(chosen) == len(names):
        return chosen - {smallest}
    return chosen
