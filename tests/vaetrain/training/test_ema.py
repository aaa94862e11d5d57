"""The average of the weights forgets by its half-life, in images."""

import copy

import pytest
import torch
from torch import nn

from vaetrain.engines.base import AVERAGE
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.factory import start_engine
from vaetrain.engines.optimizers import build_optimizer
from vaetrain.engines.spec import Launch
from vaetrain.training.ema import WeightEma


def averaged(model: nn.Module, half_life: float) -> WeightEma:
    """A model's average, in one process."""
    engine = start_engine(Launch("single", 1, "no"))
    skeleton = copy.deepcopy(model).to("meta")
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=1, accumulation=1, clip_norm=0.0)
    return WeightEma(engine, skeleton, half_life)


def after(half_life: float, images: int, step: int, start: int = 10**9) -> float:
    """What is left of a weight of 1 when the model's is 0 for `images` images."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    average = averaged(model, half_life)
    nn.init.zeros_(model.weight)
    for seen in range(step, images + 1, step):
        average.update(start + seen, step, torch.tensor(True))
    return float(average.model().weight)


@pytest.mark.parametrize("step", [1, 10, 50])
def test_half_is_left_after_the_half_life_whatever_the_batch(step):
    assert after(100, 100, step) == pytest.approx(0.5, rel=1e-4)
    assert after(100, 300, step) == pytest.approx(0.125, rel=1e-4)


def test_early_on_the_start_is_soon_forgotten():
    assert after(10_000, 100, 10, start=0) < 1e-6 < after(10_000, 100, 10)


def test_without_a_half_life_it_follows_at_once():
    assert after(0, 1, 1) == 0


def test_the_average_is_for_evaluation():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].running_mean.fill_(7)
    evaluated = averaged(model, 10).model()
    assert not evaluated.training
    assert not any(p.requires_grad for p in evaluated.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(evaluated.state_dict()[name], value)


def test_the_average_is_put_back():
    average = averaged(nn.Linear(2, 3), 10)
    tensors = {"weight": torch.rand(3, 2), "bias": torch.rand(3)}
    average.engine.scatter(AVERAGE, tensors)
    for name, value in average.tensors():
        torch.testing.assert_close(value, tensors[name])
