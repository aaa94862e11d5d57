"""Optimizers: weight decay, clipping, and a saved state that resumes identically."""

import pytest
import torch
from torch import nn

from vaetrain.config.experiment import load_experiment
from vaetrain.engines.config import TIMM_OPTIMIZERS, OptimizerConfig
from vaetrain.engines.optimizers import (
    build_optimizer,
    clip_gradients,
    load_optimizer_tensors,
    optimizer_tensors,
    start_state,
)
from vaetrain.settings import ConfigError


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 5))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        images = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(number))
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def started(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = small_model()
    optimizer = build_optimizer(model, OptimizerConfig(name=name, lr=1e-2))
    start_state(optimizer, list(model.parameters()))
    return model, optimizer


@pytest.mark.parametrize("name", ["adamw", *TIMM_OPTIMIZERS])
def test_start_state_does_not_change_training(name):
    model, optimizer = started(name)
    fresh = small_model()
    for value, expected in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(value, expected)
    plain = build_optimizer(fresh, OptimizerConfig(name=name, lr=1e-2))
    steps(model, optimizer, range(5))
    steps(fresh, plain, range(5))
    for value, expected in zip(model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(model[0].weight, small_model()[0].weight)


@pytest.mark.parametrize("name", ["adamw", *TIMM_OPTIMIZERS])
def test_a_saved_state_resumes_identically(name):
    uninterrupted, first = started(name), started(name)
    steps(*uninterrupted, range(6))
    steps(*first, range(3))
    model, optimizer = started(name)
    model.load_state_dict(first[0].state_dict())
    tensors = {key: value.clone() for key, value in optimizer_tensors(*first).items()}
    load_optimizer_tensors(model, optimizer, tensors)
    steps(model, optimizer, range(3, 6))
    for value, expected in zip(model.parameters(), uninterrupted[0].parameters(), strict=True):
        assert torch.equal(value, expected)


def test_norms_and_biases_do_not_decay():
    model = small_model()
    decayed, undecayed = build_optimizer(model, OptimizerConfig()).param_groups
    assert decayed["weight_decay"] > 0 == undecayed["weight_decay"]
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert len(undecayed["params"]) == 4


def test_an_unknown_name_is_refused_with_the_settings():
    with pytest.raises(ConfigError, match=r"optimizer\.name: .*; allowed: adamw"):
        load_experiment(None, ["optimizer.name=magic"])


@pytest.mark.parametrize(("max_norm", "expected"), [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping_limits_the_norm_and_returns_the_norm_before(max_norm, expected):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for parameter, gradient in zip(parameters, (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    assert float(clip_gradients(parameters, max_norm)) == 5.0
    norm = torch.stack([parameter.grad for parameter in parameters]).norm()
    assert float(norm) == pytest.approx(expected, rel=1e-5)
