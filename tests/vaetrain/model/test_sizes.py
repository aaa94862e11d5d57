"""Parameters of the model's sizes."""

from itertools import pairwise

import pytest
import torch

from vaetrain.model.config import ModelConfig
from vaetrain.model.registry import BLOCKS
from vaetrain.model.sizes import SIZES
from vaetrain.model.vae import VAE


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
