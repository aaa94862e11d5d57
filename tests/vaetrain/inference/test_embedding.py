"""Embedding, compared with pages that are encoded one by one."""

import shutil

import numpy as np
import pytest
import torch

from shards.errors import UserError
from tests.vaetrain.conftest import EXPERIMENT
from tests.vaetrain.pages_one_by_one import encode_one_by_one, fitted_space
from vaetrain import load_model
from vaetrain.artifacts.final_model import write_final
from vaetrain.inference.embedding import embedding_arrays, fit_embedding
from vaetrain.inference.trained_model import TrainedModel


def arrays_of(run, shards) -> dict[str, np.ndarray]:
    trained = TrainedModel(run)
    data = trained.open_shards(shards)
    features = trained.features(data)
    return embedding_arrays(features, trained.space_for(features), data)


def test_every_page_has_one_row_in_order_of_ids(run_folder, layouts, capsys):
    arrays = arrays_of(run_folder / "run", run_folder / "shards")
    pages = range(len(layouts))
    assert arrays["ids"].tolist() == list(pages)
    assert arrays["mu"].dtype == arrays["embedding"].dtype == np.float32
    mu, _, structure = encode_one_by_one(run_folder, pages)
    assert arrays["mu"] == pytest.approx(mu.numpy(), abs=1e-5)
    expected = fitted_space(run_folder, len(layouts)).vectors(mu, structure)
    assert arrays["embedding"] == pytest.approx(expected.numpy(), abs=1e-4)
    assert str(arrays["embedding_name"]) == "latent-edges-widths"
    assert "no statistics of the embedding" in capsys.readouterr().err
    by_key = {page["id"]: page for page in layouts}
    rows = zip(*(arrays[name] for name in ("keys", "labels", "templates")), strict=True)
    for key, label, template in rows:
        assert (label, template) == (by_key[key]["label"], by_key[key]["template"])


@pytest.fixture
def finished(run_folder, tmp_path):
    """The run of `run_folder` with an embedding that was fitted to its first ten pages."""
    model = load_model(run_folder / "run")
    model.space = fitted_space(run_folder, 10)
    write_final(tmp_path / "run" / "final", model, EXPERIMENT, {}, {})
    return tmp_path / "run"


def test_a_finished_run_embeds_by_its_stored_statistics(finished, run_folder, layouts, capsys):
    arrays = arrays_of(finished, run_folder / "shards")
    mu, _, structure = encode_one_by_one(run_folder, range(len(layouts)))
    expected = fitted_space(run_folder, 10).vectors(mu, structure)
    assert arrays["embedding"] == pytest.approx(expected.numpy(), abs=1e-4)
    assert "no statistics" not in capsys.readouterr().err
    trained = TrainedModel(finished)
    data = trained.open_shards(run_folder / "shards")
    page = data.collator.batch(np.array([3]), np.array([0]), training=False)
    vector = load_model(finished).embedding(page.images(), page.heights)
    assert arrays["embedding"][3] == pytest.approx(vector[0].numpy(), abs=1e-4)


@pytest.mark.parametrize("fault", ["cut off", "of another model"])
def test_a_damaged_embedding_is_refused(finished, fault):
    path = finished / "final" / "embedding.safetensors"
    if fault == "cut off":
        path.write_bytes(path.read_bytes()[:100])
    else:
        model = load_model(finished)
        model.space = model.space.__class__(
            **{name: part[:2] for name, part in model.space.tensors().items()}
        )
        write_final(finished / "other", model, EXPERIMENT, {}, {})
        shutil.copy(finished / "other" / path.name, path)
    with pytest.raises(UserError, match=r"embedding\.safetensors: damaged"):
        load_model(finished)


def test_pages_at_two_widths_are_fitted_to(run_folder, layouts):
    trained = TrainedModel(run_folder / "run")
    data = trained.open_shards(run_folder / "shards")
    space = fit_embedding(trained.model, data, data.select("all"), trained.engine)
    assert not torch.equal(space.directions, fitted_space(run_folder, len(layouts)).directions)
