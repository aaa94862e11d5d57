"""Precision, recall, density and coverage, compared with their definitions in plain loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vaetrain.evaluation.prdc import NEIGHBOURS, prdc


def vectors(count: int, shift: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) + shift


def by_loops(real: np.ndarray, other: np.ndarray, k: int) -> dict[str, float]:
    def radius(points: np.ndarray, number: int) -> float:
        away = [np.linalg.norm(points[number] - p) for n, p in enumerate(points) if n != number]
        return sorted(away)[k - 1]

    in_real = [
        [np.linalg.norm(x - r) < radius(real, number) for number, r in enumerate(real)]
        for x in other
    ]
    in_other = [
        [np.linalg.norm(r - x) < radius(other, number) for number, x in enumerate(other)]
        for r in real
    ]
    return {
        "precision": np.mean([any(balls) for balls in in_real]),
        "recall": np.mean([any(balls) for balls in in_other]),
        "density": np.mean([sum(balls) / k for balls in in_real]),
        "coverage": np.mean([any(column) for column in zip(*in_real, strict=True)]),
    }


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_values_equal_the_definitions(shift):
    real, other = vectors(23), vectors(17, shift, seed=1)
    expected = by_loops(real.double().numpy(), other.double().numpy(), 4)
    assert prdc(real, other, 4) == pytest.approx(expected)
    assert 0 < expected["coverage"] < 1


def test_copies_have_full_scores_and_distant_vectors_none():
    real = vectors(40)
    assert prdc(real, real.clone()) == dict.fromkeys(
        ("precision", "recall", "density", "coverage"), pytest.approx(1, abs=0.2)
    )
    assert set(prdc(real, real + 100).values()) == {0.0}


def test_collapsed_vectors_are_precise_but_cover_little():
    real = vectors(200)
    few = real[:1] + 1e-3 * vectors(200, seed=2)
    values = prdc(real, few)
    assert values["precision"] == 1
    assert values["coverage"] <= 4 * NEIGHBOURS / 200
    assert values["recall"] <= 0.01
