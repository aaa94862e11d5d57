"""Latents that are refined by gradient steps on the objective of the run."""

from __future__ import annotations

import math

import pytest
import torch

from shards.reading.batch import Batch
from tests.vaetrain.model.pages import LATENT_DIM, WIDTH, build_model, random_pages
from vaetrain.config.experiment import load_experiment
from vaetrain.inference.refinement import Refinement
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import Posterior
from vaetrain.schedules import weights_at

HEIGHTS = [64, 32, 40]


class Pages(Batch):
    """Pages that are drawn already."""

    def __init__(self, images: torch.Tensor, heights: torch.Tensor) -> None:
        self._images, self.heights = images, heights

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the padded pages."""
        return tuple(self._images.shape[2:])

    def images(self) -> torch.Tensor:
        """Return the pages."""
        return self._images


def an_experiment(*settings: str):
    sizes = [f"data.width={WIDTH}", f"model.latent_dim={LATENT_DIM}", "beta.schedule=constant"]
    return load_experiment(None, [*sizes, *settings])


def losses_of(model, experiment, posterior: Posterior, pages: Pages, skips: bool = True):
    output = model.reconstruct(posterior, pages.heights, pages.size, skips=skips)
    weights = weights_at(experiment, math.inf, math.inf)
    return Objective(experiment)(output, pages.images(), pages.heights, weights)[0]


LEVELS = ("model.output=levels", "loss.pixel=nll", "loss.ssim=0.5", "beta.max=1")


@pytest.mark.parametrize(
    ("settings", "skips"),
    [
        ((), True),
        (LEVELS, True),
        (("model.skips=hierarchical",), False),
        (("model.latent=spatial",), True),
    ],
)
def test_the_loss_of_every_page_falls_and_only_mu_changes(settings, skips):
    experiment = an_experiment(*settings)
    model = build_model(**{k: getattr(experiment.model, k) for k in ("output", "skips", "latent")})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pages = Pages(*random_pages(HEIGHTS))
    posterior = model.posterior(pages.images(), pages.heights)
    with torch.no_grad():
        refined = Refinement(model, experiment)(posterior, pages, 5, skips=skips)
        first = losses_of(model, experiment, posterior, pages, skips)
        last = losses_of(model, experiment, refined, pages, skips)
    assert (last < first).all()
    assert refined.logvar is posterior.logvar
    assert not refined.mu.requires_grad
    assert torch.equal(refined.mu, model.keep_latent(refined.mu, pages.heights))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_a_page_is_refined_alike_alone_and_beside_taller_ones():
    experiment, model = an_experiment(), build_model()
    images, heights = random_pages(HEIGHTS)
    refine = Refinement(model, experiment)

    def refined(pages: Pages) -> torch.Tensor:
        return refine(model.posterior(pages.images(), pages.heights), pages, 3).mu

    together = refined(Pages(images, heights))
    alone = refined(Pages(images[1:2, :, :32], heights[1:2]))
    assert (together[1] - alone[0]).abs().max() < 2e-3
    assert (together[0] - together[1]).abs().max() > 0.1
