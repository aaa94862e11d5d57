"""The loop of fits: its learning rate, clipping and signs of life."""

import math

import pytest
import torch
from torch import nn

from tests.support.engines import FakeEngine
from vaetrain.training.fit_loop import MARK_EVERY, WEIGHT_DECAY, minimise


class Marked(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.marks = []

    def tell_progress(self, place: str | None) -> None:
        self.marks.append(place)


def weights_after_each_step(steps: int, **options) -> tuple[list[float], list[str]]:
    """Fit a weight whose gradient is always 1, so that Adam's steps are the learning rates."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    engine, weights = Marked(), []
    minimise(
        module,
        lambda: module.weight.sum(),
        steps,
        engine,
        name="a line",
        after=lambda: weights.append(module.weight.item()),
        **options,
    )
    return weights, engine.marks


def test_the_learning_rate_rises_and_falls_as_a_cosine():
    weights, _ = weights_after_each_step(8, lr=0.1, warmup=3)
    expected, weight = [], 0.0
    for step in range(8):
        rate = 0.1 * min(1, (step + 1) / 3) * (1 + math.cos(math.pi * step / 8)) / 2
        weight -= rate * (1 + WEIGHT_DECAY * weight)
        expected.append(weight)
    assert weights == pytest.approx(expected, rel=1e-4)


def test_the_other_ranks_see_progress():
    _, marks = weights_after_each_step(2 * MARK_EVERY, lr=0.1, warmup=1)
    assert marks == [
        f"fitting a line, step 0 of {2 * MARK_EVERY}",
        f"fitting a line, step {MARK_EVERY} of {2 * MARK_EVERY}",
    ]


def test_gradients_are_clipped():
    module, norms = nn.Linear(1, 1, bias=False), []
    options = {"name": "a line", "lr": 0.1, "warmup": 1, "clip_norm": 0.5}
    after = {"after": lambda: norms.append(module.weight.grad.norm().item())}
    minimise(module, lambda: 100 * module.weight.sum(), 2, FakeEngine(), **options, **after)
    assert norms == pytest.approx([0.5, 0.5], rel=1e-4)
    assert torch.isfinite(module.weight).all()
