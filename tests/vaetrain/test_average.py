"""The average of the weights forgets by its half-life, in images."""

import pytest
import torch
from torch import nn

from vaetrain.average import WeightAverage


def after(half_life: float, images: int, step: int, start: int = 10**9) -> float:
    """What is left of a weight of 1 when the model's is 0 for `images` images."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    average = WeightAverage(model, half_life)
    nn.init.zeros_(model.weight)
    for seen in range(step, images + 1, step):
        average.update(model, start + seen, step)
    return float(average.model.weight)


@pytest.mark.parametrize("step", [1, 10, 50])
def test_half_is_left_after_the_half_life_whatever_the_batch(step):
    assert after(100, 100, step) == pytest.approx(0.5, rel=1e-4)
    assert after(100, 300, step) == pytest.approx(0.125, rel=1e-4)


def test_early_on_the_start_is_soon_forgotten():
    assert after(10_000, 100, 10, start=0) < 1e-6 < after(10_000, 100, 10)


def test_without_a_half_life_it_follows_at_once():
    assert after(0, 1, 1) == 0


def test_the_average_is_for_evaluation():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    average = WeightAverage(model, 10)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    torch.testing.assert_close(average.model[0].weight, model[0].weight)
