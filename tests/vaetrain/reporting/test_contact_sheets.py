"""Contact sheets show the pages themselves beside what the model makes of them."""

import copy

import numpy as np
import pytest
import torch

from tests.support.models import perturbed_model
from tests.vaetrain.conftest import EXPERIMENT
from tests.vaetrain.pages_one_by_one import MAX_HEIGHT, WIDTH
from vaetrain.artifacts.final_model import write_final
from vaetrain.evaluation.path_smoothness import page_pairs
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.page_pictures import GAP, cut_pages
from vaetrain.reporting.contact_sheets import PAIRS, SAMPLES, STEPS, contact_sheets

STEP = WIDTH + GAP  # columns of a page and the gap after it


@torch.no_grad()
def test_sheets_of_a_vector(run_folder):
    trained = TrainedModel(run_folder / "run")
    data = trained.open_shards(run_folder / "shards")
    pages = data.select("all")
    sheets = contact_sheets(trained, data, pages)
    assert sheets["samples"].shape[1] == 8 * STEP
    assert len(sheets["samples"]) == SAMPLES // 8 * (MAX_HEIGHT + GAP)
    # The first page of each line of the interpolations is the first page of a pair.
    assert sheets["interpolations"].shape[1] == (STEPS + 2) * STEP
    first = int(page_pairs(pages, PAIRS)[0, 0])
    batch = data.collator.batch(np.array([first]), np.array([0]), training=False)
    (picture,) = cut_pages(batch.images(), batch.heights)
    assert (sheets["interpolations"][: len(picture), :WIDTH] == picture).all()
    # The first page of the reconstructions is page 0, and beside it is its reconstruction.
    assert sheets["reconstructions"].shape[1] == 8 * STEP
    batch = data.collator.batch(np.array([0]), np.array([0]), training=False)
    made = trained.reconstruct(batch)
    for column, images in enumerate((batch.images(), made)):
        (picture,) = cut_pages(images, batch.heights)
        left = column * STEP
        assert (sheets["reconstructions"][: len(picture), left : left + WIDTH] == picture).all()


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_with_skip_connections_has_a_third_picture(run_folder, tmp_path, count):
    settings = copy.deepcopy(EXPERIMENT)
    settings.model.skips = "gated"
    model = perturbed_model(settings.model, WIDTH, MAX_HEIGHT, 0.2)
    write_final(tmp_path / "final", model, settings, {}, {})
    trained = TrainedModel(tmp_path)
    data = trained.open_shards(run_folder / "shards")
    sheets = contact_sheets(trained, data, data.select("all").spaced(count))
    assert sheets["reconstructions"].shape[1] == (3 * count) * STEP
    assert ("interpolations" in sheets) == (count > 1)
    page, made, vector = np.split(sheets["reconstructions"][:, : 3 * STEP], 3, axis=1)
    assert (page != made).any()
    assert (made != vector).any()
