"""Pictures of any number of pages; interpolation on great circles, and where there are none."""

import numpy as np
import pytest
import torch

from shards.reading.batch import Batch
from vaetrain.config.experiment import load_experiment
from vaetrain.model.vae import VAE
from vaetrain.page_pictures import BRIGHTNESS, ERROR_BRIGHTNESS, error_map
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
def test_any_number_of_pages_makes_a_panel(count):
    model = VAE(load_experiment(None, ["model.latent_dim=4"]).model, 64, 64).eval()
    shown = model_figures(model, blank_pages(count))
    assert {"reconstructions", "prior_samples"} <= set(shown)
    assert ("interpolation" in shown) == (count > 1)
    assert all(picture.dtype == "uint8" and picture.ndim == 2 for picture in shown.values())


def test_an_error_map_is_black_where_a_page_is_right_and_bright_where_it_is_wrong():
    pages = torch.rand(2, 1, 8, 8)
    assert not error_map(pages, pages).any()
    wrong = pages.clone()
    wrong[1, 0, 3, 4] += 0.05
    wrong[1, 0, 5, 6] -= 0.02
    found = error_map(wrong, pages)
    assert list(zip(*found.nonzero(), strict=True)) == [(1, 3, 4), (1, 5, 6)]
    assert found[1, 3, 4] == pytest.approx(2.5 * found[1, 5, 6], abs=3)


def test_the_third_row_shows_the_errors_of_the_second():
    batch = blank_pages(2)
    model = VAE(load_experiment(None, ["model.latent_dim=4"]).model, 64, 64).eval()
    with torch.no_grad():
        model.linear.to_page.bias.fill_(0.05 / model.linear.to_page.scale)
    pages, ours, errors = np.split(model_figures(model, batch)["reconstructions"], 3)
    at = np.s_[:40, :64]
    assert not pages[at].any()
    # Against a black page the error is the page: brighter by the ratio of their gains.
    gain = ERROR_BRIGHTNESS / BRIGHTNESS
    wanted = np.clip(ours[at].astype(float) * gain, 0, 255)
    assert ours[at].any()
    assert np.abs(errors[at] - wanted).max() <= gain
