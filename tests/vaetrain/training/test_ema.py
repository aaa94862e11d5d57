"""EMA of the weights: half-life in images, evaluation model, loading."""

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


def ema_of(model: nn.Module, half_life: float) -> WeightEma:
    """Return the EMA of a model in one process."""
    engine = start_engine(Launch("single", 1, "no"))
    skeleton = copy.deepcopy(model).to("meta")
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=1, accumulation=1, clip_norm=0.0)
    return WeightEma(engine, skeleton, half_life)


def share_left(half_life: float, images: int, step: int, start: int = 10**9) -> float:
    """Return the EMA of a weight that starts at 1 and is 0 for `images` images."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = ema_of(model, half_life)
    nn.init.zeros_(model.weight)
    for seen in range(step, images + 1, step):
        ema.update(start + seen, step, torch.tensor(True))
    return float(ema.model().weight)


@pytest.mark.parametrize("step", [1, 10, 50])
def test_half_is_left_after_the_half_life_for_any_batch_size(step):
    assert share_left(100, 100, step) == pytest.approx(0.5, rel=1e-4)
    assert share_left(100, 300, step) == pytest.approx(0.125, rel=1e-4)


def test_half_life_is_shorter_early_in_training():
    assert share_left(10_000, 100, 10, start=0) < 1e-6 < share_left(10_000, 100, 10)


def test_half_life_of_zero_equals_the_weights():
    assert share_left(0, 1, 1) == 0


def test_averaged_model_is_frozen_in_evaluation_mode():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].running_mean.fill_(7)
    evaluated = ema_of(model, 10).model()
    assert not evaluated.training
    assert not any(p.requires_grad for p in evaluated.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(evaluated.state_dict()[name], value)


def test_scattered_tensors_are_the_ema():
    ema = ema_of(nn.Linear(2, 3), 10)
    tensors = {"weight": torch.rand(3, 2), "bias": torch.rand(3)}
    ema.engine.scatter(AVERAGE, tensors)
    for name, value in ema.tensors():
        torch.testing.assert_close(value, tensors[name])
