"""Comparisons of two sets of tensors by name, such as weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether two sets of tensors are identical."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def relative_difference(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference of two sets of tensors, relative to that of the second."""
    assert tensors.keys() == expected.keys()
    actual, reference = (
        torch.cat([values[name].double().flatten() for name in sorted(values)])
        for values in (tensors, expected)
    )
    return float((actual - reference).norm() / reference.norm())
