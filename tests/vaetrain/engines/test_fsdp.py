"""FSDP2: the modules that it gathers as one unit, and its reductions of gradients."""

import pytest
import torch
from torch import nn

from vaetrain.engines.config import EngineConfig
from vaetrain.engines.fsdp import FsdpEngine, fsdp_units
from vaetrain.engines.spec import ENGINES
from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE
from vaetrain.settings import AUTO, ConfigError


def test_units_have_the_minimum_size_and_inner_ones_come_first():
    small = nn.Sequential(nn.Linear(2, 2), nn.ReLU())  # 6 parameters
    large = nn.Linear(9, 9)  # 90
    outer = nn.Sequential(small, large, nn.Linear(3, 3))  # 18 more than large
    model = nn.Sequential(outer, nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)]))
    assert fsdp_units(model, 18) == [large, outer]
    assert fsdp_units(model, 100) == [outer]
    assert fsdp_units(model, 1000) == []


def test_every_unit_has_a_forward_pass_and_units_share_no_weight():
    with torch.device("meta"):
        model = VAE(ModelConfig(size="large"), 128, 512)
    units = fsdp_units(model, 1_000_000)
    assert len(units) > 10
    assert not any(isinstance(unit, nn.ModuleList) for unit in units)
    own, in_units = [], set()
    for unit in units:
        own.append({p for p in unit.parameters() if p not in in_units})
        in_units |= own[-1]
    assert all(sum(p.numel() for p in parameters) >= 1_000_000 for parameters in own)


def test_a_module_that_reads_the_weights_inside_it_is_one_unit():
    model = VAE(ModelConfig(), 64, 64)
    attention = {module for module in model.modules() if isinstance(module, MaskedCBAM)}
    inside = {inner for module in attention for inner in module.children()}
    units = set(fsdp_units(model, 1))
    assert attention <= units
    assert not inside & units


@pytest.mark.parametrize(
    ("dtype", "each", "is_each"),
    [("fp32", AUTO, False), ("fp32", True, True), ("bf16", AUTO, True), ("bf16", True, True)],
)
def test_micro_batches_are_never_added_up_in_bf16(dtype, each, is_each):
    engine = engine_with("fsdp2", EngineConfig(dtype, each), accumulation=2)
    assert engine._reduces_each == is_each
    policies = engine._policies()
    assert ("mp_policy" in policies) == (dtype == "bf16")


@pytest.mark.parametrize(("each", "is_each"), [(AUTO, True), (False, False)])
def test_offload_reduces_every_micro_batch_unless_it_is_told_not_to(each, is_each):
    engine = engine_with("fsdp2_offload", EngineConfig("fp32", each), accumulation=2)
    assert engine._reduces_each == is_each


def test_bf16_without_reductions_in_every_micro_batch_is_refused():
    engine = engine_with("fsdp2", EngineConfig("bf16", False), accumulation=2)
    with pytest.raises(ConfigError, match="add up the 2 micro batches of a step in bf16"):
        engine._policies()
    engine.accumulation = 1
    assert engine._policies()["mp_policy"].reduce_dtype == torch.bfloat16


def engine_with(name: str, config: EngineConfig, accumulation: int) -> FsdpEngine:
    """Return an engine without a process group."""
    engine = FsdpEngine.__new__(FsdpEngine)
    engine.spec, engine.config, engine.accumulation = ENGINES[name], config, accumulation
    return engine
