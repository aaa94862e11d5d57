"""Models for tests that need no training."""

import torch

from vaetrain.config import ModelConfig
from vaetrain.model import VAE


def restless(config: ModelConfig, width: int, max_height: int, noise: float) -> VAE:
    """A model with noise of this size on all of its weights, the same at every call.

    A fresh one has zeros where it starts to add to its linear path: they hide what feeds them, and
    it decodes nothing but blank pages.
    """
    torch.manual_seed(0)
    model = VAE(config, width, max_height)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model
