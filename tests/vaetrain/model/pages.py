"""Random pages and models that the tests of the model share."""

from __future__ import annotations

import torch

from tests.support.models import perturbed_model
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE

WIDTH, MAX_HEIGHT, LATENT_DIM = 64, 2048, 24


def build_model(**settings: str) -> VAE:
    """Build a perturbed model for pages of `WIDTH` x `MAX_HEIGHT`."""
    config = ModelConfig(latent_dim=LATENT_DIM, **settings)
    return perturbed_model(config, WIDTH, MAX_HEIGHT, 0.02).eval()


def padded(height: int) -> int:
    """Round a height up to a multiple of the model's stride."""
    return -(-height // VAE.stride) * VAE.stride


def random_pages(heights: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random pages of these heights, padded with zeros, and the heights."""
    rows, valid = padded(max(heights)), torch.tensor(heights)
    images = torch.rand(len(heights), 1, rows, WIDTH, generator=torch.Generator().manual_seed(1))
    images *= (torch.arange(rows) < valid[:, None])[:, None, :, None]
    return images, valid
