"""Figures of a model, for any number of pages."""

import numpy as np
import pytest
import torch

from shards.reading.batch import Batch
from tests.support.models import perturbed_model
from vaetrain.config.experiment import load_experiment
from vaetrain.model.config import ModelConfig
from vaetrain.model.vae import VAE
from vaetrain.page_pictures import BRIGHTNESS, ERROR_BRIGHTNESS
from vaetrain.reporting import model_figures as figures
from vaetrain.reporting.model_figures import model_figures


def blank_pages(count: int) -> Batch:
    ids = torch.arange(count)
    return Batch(
        ids=ids,
        epochs=torch.zeros_like(ids),
        heights=torch.full_like(ids, 40),
        size=(64, 64),
        tops=torch.zeros_like(ids),
        canvas=torch.full((count, 2), 64.0),
        boxes=None,
        owner=None,
        pixels=torch.zeros(count, 1, 64, 64, dtype=torch.uint8),
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_pages_has_figures(count):
    model = VAE(load_experiment(None, ["model.latent_dim=4"]).model, 64, 64).eval()
    drawn = model_figures(model, blank_pages(count))
    assert {"reconstructions", "prior_samples"} <= set(drawn)
    assert ("interpolation" in drawn) == (count > 1)
    assert all(picture.dtype == "uint8" and picture.ndim == 2 for picture in drawn.values())


@torch.no_grad()
def test_samples_and_interpolations_of_a_ladder_have_sampled_levels(monkeypatch):
    config = ModelConfig(latent_dim=4, skips="hierarchical")
    model = perturbed_model(config, 64, 64, 0.05).eval()
    sampled = model_figures(model, blank_pages(2))
    monkeypatch.setattr(figures, "level_noise", lambda model, keys, size: ())
    monkeypatch.setattr(figures, "path_noise", lambda model, steps, size: ())
    of_means = model_figures(model, blank_pages(2))
    assert (sampled["prior_samples"] != of_means["prior_samples"]).any()
    assert (sampled["interpolation"] != of_means["interpolation"]).any()


def test_the_third_row_has_the_errors_of_the_second():
    batch = blank_pages(2)
    model = VAE(load_experiment(None, ["model.latent_dim=4"]).model, 64, 64).eval()
    with torch.no_grad():
        model.linear.to_page.bias.fill_(0.05 / model.linear.to_page.scale)
    pages, made, errors = np.split(model_figures(model, batch)["reconstructions"], 3)
    at = np.s_[:40, :64]
    assert not pages[at].any()
    # Against a black page the error is the reconstruction itself, with another brightness.
    gain = ERROR_BRIGHTNESS / BRIGHTNESS
    wanted = np.clip(made[at].astype(float) * gain, 0, 255)
    assert made[at].any()
    assert np.abs(errors[at] - wanted).max() <= gain
