"""Which parts of a model FSDP2 gathers by themselves."""

import torch
from torch import nn

from vaetrain.engines.fsdp import fsdp_units
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE


def test_units_are_large_enough_and_inner_ones_come_first():
    small = nn.Sequential(nn.Linear(2, 2), nn.ReLU())  # 6 parameters
    large = nn.Linear(9, 9)  # 90
    outer = nn.Sequential(small, large, nn.Linear(3, 3))  # 18 more than large
    model = nn.Sequential(outer, nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)]))
    assert fsdp_units(model, 18) == [large, outer]
    assert fsdp_units(model, 100) == [outer]
    assert fsdp_units(model, 1000) == []


def test_every_unit_is_a_module_that_is_called_and_no_weight_is_in_two():
    with torch.device("meta"):
        model = VAE(ModelConfig(size="large"), 128, 512)
    found = fsdp_units(model, 1_000_000)
    assert len(found) > 10
    assert not any(isinstance(unit, nn.ModuleList) for unit in found)
    own, taken = [], set()
    for unit in found:
        own.append({p for p in unit.parameters() if p not in taken})
        taken |= own[-1]
    assert all(sum(p.numel() for p in parameters) >= 1_000_000 for parameters in own)
