"""Heads of the encoder: the posterior of a new model."""

import math

import torch
import torch.nn.functional as F

from tests.support.models import noise_for
from tests.vaetrain.model.pages import LATENT_DIM, MAX_HEIGHT, WIDTH, random_pages
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE


def new_model() -> VAE:
    torch.manual_seed(0)
    return VAE(ModelConfig(latent_dim=LATENT_DIM), WIDTH, MAX_HEIGHT)


def test_the_posterior_of_a_new_model_is_that_of_its_linear_path():
    model = new_model()
    images, heights = random_pages([64, 300])
    mu, logvar = model.encode(images, heights)
    assert (logvar == 0).all()
    coarse = F.avg_pool2d(images, model.linear.cell)
    coarse = F.pad(coarse, (0, 0, 0, model.linear.size[0] - coarse.shape[2]))
    torch.testing.assert_close(mu, model.linear.to_mu(coarse.flatten(1)))


def test_start_logvar_sets_the_kl_of_a_new_model():
    """With components of 0, mu is 0 and the KL is 0.5 (exp(v) - 1 - v) for log variance v."""
    model = new_model()
    cells = math.prod(model.linear.size)
    model.start_from_pca(torch.zeros(cells), torch.zeros(LATENT_DIM, cells), torch.ones(LATENT_DIM))
    images, heights = random_pages([64, 300])
    output = model(images, heights, noise_for(model, tuple(images.shape[2:]), [0, 1]))
    expected = torch.full((2, LATENT_DIM), 0.5 * (math.exp(-3) - 1 + 3))
    torch.testing.assert_close(kl_per_page_and_dimension(output), expected, rtol=1e-4, atol=0)
