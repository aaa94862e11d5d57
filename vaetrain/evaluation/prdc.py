"""Precision, recall, density and coverage of a set of pages (Naeem et al. 2020, section 3).

The definitions are those of the authors' package `prdc`.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 5  # as in the paper


def prdc(real: Tensor, other: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Compare a set of vectors with a set of real ones.

    Each vector has a ball that reaches to the k-th nearest vector of its own set.

    Args:
        real, other: (N, D) and (M, D), N and M over `neighbours`.
        neighbours: k.

    Returns: `precision`, the share of the other vectors inside a real vector's ball; `recall`, the
        share of the real vectors inside another's ball (both Kynkaanniemi et al. 2019);
        `density`, the mean number of real balls that an other vector is in, divided by k; and
        `coverage`, the share of the real balls with an other vector inside.
    """
    real, other = real.double(), other.double()
    radius, other_radius = _radius(real, neighbours), _radius(other, neighbours)
    distances = _distances(real, other)
    inside = distances < radius[:, None]
    return {
        "precision": inside.any(dim=0).double().mean().item(),
        "recall": (distances < other_radius).any(dim=1).double().mean().item(),
        "density": (inside.sum(dim=0).double().mean() / neighbours).item(),
        "coverage": (distances.amin(dim=1) < radius).double().mean().item(),
    }


def _radius(vectors: Tensor, neighbours: int) -> Tensor:
    """Return the distance of each vector to its k-th nearest of the same set: (N,)."""
    # The nearest is the vector itself.
    return _distances(vectors, vectors).kthvalue(neighbours + 1, dim=1).values


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # A matrix product would round the distances, and those of equal vectors would not be 0.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
