"""Pictures of a validation, of all kinds of latents, and what they must and must not show."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shards.build import build
from shards.building.options import BuildOptions
from tests.support.models import restless
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import TrainingData
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.evaluation.validation import EncodedPages, encode_pages
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAE
from vaetrain.page_pictures import GAP, as_grey
from vaetrain.reporting import validation_figures
from vaetrain.reporting.projector import project_latents
from vaetrain.reporting.run_log import RunLog
from vaetrain.reporting.validation_figures import (
    latent_charts,
    neighbours,
    traversals,
)
from vaetrain.schedules import weights_at

REPO = Path(__file__).resolve().parents[3]
ALONE = SimpleNamespace(
    device=torch.device("cpu"),
    rank=0,
    world_size=1,
    gather_ragged=lambda rows: rows,
    mark_progress=lambda place: None,
)
SETTINGS = ("data.width=64", "data.max_height=128", "model.size=tiny", "model.start=random")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    build([REPO / "shards" / "sample"], folder, BuildOptions(count=60, workers=1))
    return folder


def validation(
    shards: Path, *settings: str, count: int = 12
) -> tuple[VAE, TrainingData, EncodedPages]:
    """A random model and what it makes of the first validation pages."""
    experiment = load_experiment(None, [*SETTINGS, f"data.shards={shards}", *settings])
    model = restless(experiment.model, 64, 128, 0.02).eval()
    data = TrainingData(
        experiment.data,
        ALONE,
        model.stride,
        seed=0,
        global_batch_size=experiment.train.global_batch_size,
    )
    data.val = data.select("all").thinned(count)
    ids = data.val.ids_at(np.arange(len(data.val)))
    batch = data.collator.batch(ids, np.zeros_like(ids), training=False)
    weights = weights_at(experiment, 1.0, 2.0)
    return model, data, encode_pages(model, [batch], ALONE, Objective(experiment), weights)


@pytest.mark.parametrize("count", [1, 2, 12])
@pytest.mark.parametrize(
    "settings",
    [
        ("model.latent_dim=8",),
        ("model.latent_dim=2",),
        ("model.latent_dim=3", "model.latent=spatial"),
        ("model.latent_dim=4", "model.skips=hierarchical"),
    ],
    ids=["vector", "narrow", "spatial", "ladder"],
)
def test_a_gallery_of_any_model_and_any_number_of_pages(shards, settings, count):
    shown = validation_figures.validation_figures(*validation(shards, *settings, count=count))
    assert all(picture.dtype == "uint8" and picture.ndim == 2 for picture in shown.values())
    assert {"reconstructions", "prior_samples", "latent/kl_of_dimensions"} <= set(shown)
    several = {"latent/traversals", "latent/std_of_mu", "latent/histograms"}
    assert several & set(shown) == (several if count > 1 else set())
    assert ("latent/kl_of_ladder_levels" in shown) == ("model.skips=hierarchical" in settings)
    if count == 12:
        assert "nearest_neighbours" in shown


def some_pages(mu: torch.Tensor, kl: torch.Tensor) -> EncodedPages:
    ids = torch.arange(len(mu))
    return EncodedPages(ids, ids, {}, mu, torch.zeros_like(mu), kl, torch.ones(len(mu), 1))


def test_the_charts_are_of_the_right_numbers_in_the_right_order(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        validation_figures.charts, "bars", lambda *given: drawn.setdefault(len(drawn), given)
    )
    monkeypatch.setattr(
        validation_figures.charts, "matrix", lambda table: drawn.setdefault("matrix", table)
    )
    monkeypatch.setattr(
        validation_figures.charts,
        "histograms",
        lambda *given: drawn.setdefault("histograms", given),
    )
    mu = torch.randn(50, 3) * torch.tensor([1.0, 0.01, 3.0])
    kl = torch.tensor([[1.0, 0.0, 5.0, 70.0, 80.0]], dtype=torch.float64).repeat(50, 1)
    latent_charts(some_pages(mu, kl))
    assert drawn[0][0].tolist() == [5, 1, 0]
    assert drawn[1][0].tolist() == [70, 80]
    np.testing.assert_allclose(drawn[2][0], np.sort(mu.double().numpy().std(0, ddof=1))[::-1])
    active = np.abs(np.corrcoef(mu[:, [2, 0]].double().numpy().T))
    np.testing.assert_allclose(drawn["matrix"], active)
    columns, names = drawn["histograms"]
    assert np.array_equal(columns, mu[:, [2, 0, 1]].numpy())
    assert [name.split(" (")[0] for name in names] == ["mu 2", "mu 0", "mu 1"]


def test_a_collapsed_space_has_no_correlation_to_show():
    shown = latent_charts(some_pages(torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.float64)))
    assert "latent/correlation" not in shown
    assert "latent/std_of_mu" in shown


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_a_traversal_moves_one_dimension_to_where_the_pages_are(shards, latent, monkeypatch):
    model, data, pages = validation(shards, f"model.latent={latent}", "model.latent_dim=8")
    batch = data.fixed_pages()
    height = batch.heights[len(batch) // 4 :][:1]
    seen = []
    decode = model.decode

    def watch(z, heights, size):
        seen.append(model.embed(model.keep_latent(z, heights), heights))
        return decode(z, heights, size)

    monkeypatch.setattr(model, "decode", watch)
    picture = traversals(model, batch, pages)
    assert picture.shape == (6 * (int(height) + GAP), 6 * (64 + GAP))
    largest = pages.kl.mean(dim=0).argsort(descending=True)[:6]
    page = pages.mu[pages.ids == batch.ids[len(batch) // 4]]
    for dimension, moved in zip(largest.tolist(), seen, strict=True):
        column = pages.mu[:, dimension]
        wanted = page.repeat(5, 1)
        wanted[:, dimension] = column.mean() + torch.arange(-2, 3) * column.std()
        torch.testing.assert_close(moved, wanted, rtol=1e-4, atol=1e-5)


def test_neighbours_are_of_other_templates_and_nearest_first(shards, monkeypatch):
    _, data, pages = validation(shards, "model.latent_dim=8", count=40)
    asked = data.fixed_pages().ids
    read = []
    monkeypatch.setattr(
        validation_figures,
        "_read",
        lambda data, ids, real=validation_figures._read: read.append(ids) or real(data, ids),
    )
    (picture,) = neighbours(data, pages, asked).values()
    assert [line[0] for line in read] == asked[::2].tolist()
    templates = dict(
        zip(
            pages.ids.tolist(),
            PageLabels.from_index(data.index, pages.ids).templates.tolist(),
            strict=True,
        )
    )
    places = dict(zip(pages.ids.tolist(), pages.search_vectors(), strict=True))
    for page, *found in [line.tolist() for line in read]:
        others = [n for n in places if templates[n] != templates[page]]
        nearest = sorted(others, key=lambda n: float((places[n] - places[page]).norm()))
        assert found == nearest[: len(found)]
        assert len(found) == min(5, len(others))
    query = data.collator.batch(asked[:1].numpy(), np.zeros(1, np.int64), training=False)
    height = int(query.heights)
    assert np.array_equal(picture[:height, :64], as_grey(query.images())[0, :height])


def test_the_projector_has_every_page_with_its_name_and_its_sprite(shards, tmp_path):
    model, data, pages = validation(shards, "model.latent_dim=8", count=20)
    experiment = load_experiment(None, ["tracker=tensorboard"])
    log = RunLog(tmp_path, experiment, horizon=64, images=0, enabled=True)
    log.start_trackers()
    assert log.has_projector
    projection = project_latents(model, data)
    log.write_projection(64, projection)
    log.close()
    unit = (pages.logvar.double() / 2).exp().mean(dim=0)
    torch.testing.assert_close(
        projection.vectors, (pages.mu.double() / unit).float(), rtol=1e-4, atol=1e-4
    )
    (folder,) = (tmp_path / "events").glob("*/latents")
    header, *lines = (folder / "metadata.tsv").read_text().splitlines()
    assert header.split("\t") == ["label", "template", "key"]
    keys = [data.collator.files.key(number) for number in pages.ids.tolist()]
    assert [line.split("\t")[2] for line in lines] == keys
    assert len((folder / "tensors.tsv").read_text().splitlines()) == len(keys)
    assert (folder / "sprite.png").stat().st_size > 1000
    assert "sprite" in (tmp_path / "events" / "projector_config.pbtxt").read_text()
    assert EventAccumulator(str(tmp_path / "events")).Reload()
