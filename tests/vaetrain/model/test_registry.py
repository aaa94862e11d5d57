"""The tables of sizes and exchangeable parts."""

from itertools import pairwise
from pkgutil import resolve_name

import pytest
import torch

from tests.support.commands import run_python
from vaetrain.model import registry
from vaetrain.model.config import ModelConfig
from vaetrain.model.registry import BLOCKS, SIZES
from vaetrain.model.vae import VAE

TABLES = (registry.BLOCKS, registry.ATTENTION, registry.SKIPS, registry.LATENTS)


@pytest.mark.parametrize("path", [path for table in TABLES for path in table.values() if path])
def test_every_entry_names_a_class(path):
    assert isinstance(resolve_name(path), type)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_each_size_has_more_than_twice_the_parameters_of_the_one_before(blocks):
    with torch.device("meta"):
        models = [VAE(ModelConfig(size=size, blocks=blocks), 128, 512) for size in SIZES]
    counts = [sum(p.numel() for p in model.decoder.stages.parameters()) for model in models]
    assert all(2 * smaller < larger for smaller, larger in pairwise(counts))


def test_the_large_model_has_a_hundred_million_parameters():
    with torch.device("meta"):
        model = VAE(ModelConfig(size="large"), 128, 512)
    assert sum(p.numel() for p in model.parameters()) >= 100_000_000


NEW_BLOCK = """
from vaetrain.model import registry

registry.BLOCKS["plain"] = "__main__:PlainBlock"

from vaetrain.config.experiment import load_experiment

experiment = load_experiment(None, ["model.blocks=plain", "model.latent_dim=4"])

import torch
from torch import nn
from tests.support.models import noise_for
from vaetrain.model.layers import Conv2d
from vaetrain.model.masked import keep
from vaetrain.model.vae import VAE

class PlainBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = Conv2d(inputs, outputs, 3, stride, 1)

    @classmethod
    def build_stage(cls, inputs, outputs, *, stride, blocks, attention):
        return [cls(inputs, outputs, stride)]

    def forward(self, x, rows, page=None):
        return keep(torch.relu(self.conv(x, page, rows)), rows)

model = VAE(experiment.model, 32, 64)
assert sum(isinstance(module, PlainBlock) for module in model.modules()) == 7
output = model(torch.rand(1, 1, 64, 32), torch.tensor([50]), noise_for(model, (64, 32), [0]))
assert output.reconstruction.shape == (1, 1, 64, 32)
"""


def test_an_entry_in_the_table_adds_a_block():
    done = run_python("-c", NEW_BLOCK)
    assert done.returncode == 0, done.stderr
