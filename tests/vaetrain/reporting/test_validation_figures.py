"""Figures of a validation: for every kind of latent, with the right values in the right order."""

from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.support.ranks import ThreadRanks
from tests.vaetrain.reporting.conftest import validation
from vaetrain.config.experiment import load_experiment
from vaetrain.data import loading
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.evaluation.validation import EncodedPages
from vaetrain.inference.embedding import fit_embedding
from vaetrain.losses.objective import Objective
from vaetrain.page_pictures import GAP, as_grey
from vaetrain.reporting import validation_figures
from vaetrain.reporting.validation_figures import latent_charts, neighbour_figure, traversals
from vaetrain.schedules import weights_at
from vaetrain.training import between_steps
from vaetrain.training.collapse import CollapseMonitor


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
def test_figures_of_any_latent_and_any_number_of_pages(shards, settings, count):
    model, data, pages = validation(shards, *settings, count=count)
    space = pages.features.fit(model, data)
    figures = validation_figures.validation_figures(model, data, pages, space)
    assert all(picture.dtype == "uint8" and picture.ndim == 2 for picture in figures.values())
    assert {"reconstructions", "prior_samples", "latent/kl_of_dimensions"} <= set(figures)
    several = {"latent/traversals", "latent/std_of_mu", "latent/histograms"}
    assert several & set(figures) == (several if count > 1 else set())
    assert ("latent/kl_of_ladder_levels" in figures) == ("model.skips=hierarchical" in settings)
    if count == 12:
        assert "nearest_neighbours" in figures


def test_samples_are_of_the_prior_once_it_is_fitted(shards):
    model, data, pages = validation(shards, "model.latent_dim=8")
    space = pages.features.fit(model, data)
    heights = torch.full((8,), 48)

    def sample(keys, given, label):
        return torch.zeros(8, 8), heights

    prior = SimpleNamespace(heights=heights, sample=sample, detail=None)
    figures = [
        validation_figures.validation_figures(model, data, pages, space, *priors)
        for priors in ((), (prior,))
    ]
    drawn = [each.pop("prior_samples") for each in figures]
    with torch.no_grad():
        page = as_grey(model.decode_padded(torch.zeros(1, 8), heights[:1], (128, 64)))[0]
    assert (drawn[1][:48, :64] == page[:48]).all()
    assert drawn[0].shape != drawn[1].shape
    assert all((figures[0][name] == figures[1][name]).all() for name in figures[0])


def test_figures_show_compared_pages_only(shards, monkeypatch):
    monkeypatch.setattr(loading, "MAX_COMPARED_PAGES", 11)
    model, data, pages = validation(shards, "model.latent_dim=8", count=40)
    assert len(pages.ids) == 11
    shown = data.fixed_pages().ids
    assert len(shown) == loading.FIGURE_PAGES
    assert set(shown.tolist()) <= set(pages.ids.tolist())
    assert "nearest_neighbours" in validation_figures.validation_figures(
        model, data, pages, pages.features.fit(model, data)
    )


class Log:
    """Stands in for the log of a run."""

    wants_pictures = True

    def print(self, message: str) -> None:
        pass

    def write_metrics(self, kind: str, images: int, values: dict) -> None:
        self.values = values

    def write_pictures(self, images: int, pictures: dict) -> None:
        self.pictures = pictures


def test_validation_of_a_run_gathers_compared_pages_only(shards, monkeypatch):
    """Metrics that are means of all pages do not change with the number of compared pages."""
    model, data, _ = validation(shards, "model.latent_dim=8", "data.workers=0", count=40)
    experiment = load_experiment(None, ["model.latent_dim=8", "train.validation_samples=0"])
    collapse = CollapseMonitor(experiment.collapse, starts_active=False)
    state = SimpleNamespace(
        ema=SimpleNamespace(model=lambda: model),
        weights_at=lambda epoch: weights_at(experiment, 1.0, 2.0),
        collapse=collapse,
    )
    clock = SimpleNamespace(epoch=lambda images: 1.0)
    values, received = [], []
    for limit in (40, 11):
        monkeypatch.setattr(loading, "MAX_COMPARED_PAGES", limit)
        engine = ThreadRanks(0, [None], Barrier(1))
        run = SimpleNamespace(
            data=data,
            engine=engine,
            state=state,
            objective=Objective(experiment),
            experiment=experiment,
            prior=None,
        )
        run.best, run.images, run.clock = {}, 0, clock
        log = Log()
        assert between_steps.validate(run, log) is not None
        values.append(log.values)
        received.append(engine.received)
        assert "nearest_neighbours" in log.pictures
    engine = ThreadRanks(0, [None], Barrier(1))
    fit_embedding(model, data, data.train.thinned(between_steps.FITTED_PAGES), engine)
    first, second = (count - engine.received for count in received)
    assert second * 40 == first * 11 > 0
    everything, subset = values
    of_subset = {"knn_label_accuracy", "precision_at_10", "nmi", "ari", "ami"}
    of_subset |= {f"viewport_recall_at_{count}" for count in (1, 10)}
    of_subset |= {f"{name}_mu" for name in of_subset} | {"mutual_information"}
    assert subset.keys() - of_subset == everything.keys() - of_subset
    of_all = everything.keys() - of_subset - {"verdict"}
    assert {name: subset[name] for name in of_all} == pytest.approx(
        {name: everything[name] for name in of_all}, rel=1e-5
    )


def encoded_pages(mu: torch.Tensor, kl: torch.Tensor) -> EncodedPages:
    ids = torch.arange(len(mu))
    return EncodedPages(ids, ids, {}, mu, torch.zeros_like(mu), kl, torch.ones(len(mu), 1))


def test_charts_receive_the_values_in_descending_order(monkeypatch):
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
    latent_charts(encoded_pages(mu, kl))
    assert drawn[0][0].tolist() == [5, 1, 0]
    assert drawn[1][0].tolist() == [70, 80]
    np.testing.assert_allclose(drawn[2][0], np.sort(mu.double().numpy().std(0, ddof=1))[::-1])
    active = np.abs(np.corrcoef(mu[:, [2, 0]].double().numpy().T))
    np.testing.assert_allclose(drawn["matrix"], active)
    columns, names = drawn["histograms"]
    assert np.array_equal(columns, mu[:, [2, 0, 1]].numpy())
    assert [name.split(" (")[0] for name in names] == ["mu 2", "mu 0", "mu 1"]


def test_a_collapsed_latent_has_no_correlation_chart():
    figures = latent_charts(
        encoded_pages(torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.float64))
    )
    assert "latent/correlation" not in figures
    assert "latent/std_of_mu" in figures


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_a_traversal_changes_one_dimension_within_the_range_of_the_pages(
    shards, latent, monkeypatch
):
    model, data, pages = validation(shards, f"model.latent={latent}", "model.latent_dim=8")
    batch = data.fixed_pages()
    height = batch.heights[len(batch) // 4 :][:1]
    latents = []
    decode = model.decode_padded

    def record(z, heights, size):
        latents.append(model.embed(model.keep_latent(z, heights), heights))
        return decode(z, heights, size)

    monkeypatch.setattr(model, "decode_padded", record)
    picture = traversals(model, batch, pages)
    assert picture.shape == (6 * (int(height) + GAP), 6 * (64 + GAP))
    largest = pages.kl.mean(dim=0).argsort(descending=True)[:6]
    page = pages.mu[pages.ids == batch.ids[len(batch) // 4]]
    for dimension, moved in zip(largest.tolist(), latents, strict=True):
        column = pages.mu[:, dimension]
        wanted = page.repeat(5, 1)
        wanted[:, dimension] = column.mean() + torch.arange(-2, 3) * column.std()
        torch.testing.assert_close(moved, wanted, rtol=1e-4, atol=1e-5)


def test_neighbours_are_of_other_templates_in_order_of_distance(shards, monkeypatch):
    model, data, pages = validation(shards, "model.latent_dim=8", count=40)
    space = pages.features.fit(model, data)
    queries = data.fixed_pages().ids
    read = []
    monkeypatch.setattr(
        data, "batch_of", lambda ids, real=data.batch_of: read.append(ids) or real(ids)
    )
    (picture,) = neighbour_figure(data, pages, queries, space).values()
    assert [line[0] for line in read] == queries[::2].tolist()
    templates = dict(
        zip(
            pages.ids.tolist(),
            PageLabels.from_index(data.index, pages.ids).templates.tolist(),
            strict=True,
        )
    )
    places = dict(zip(pages.ids.tolist(), pages.embeddings(space), strict=True))
    for page, *neighbours in [line.tolist() for line in read]:
        others = [n for n in places if templates[n] != templates[page]]
        nearest = sorted(others, key=lambda n: float((places[n] - places[page]).norm()))
        assert neighbours == nearest[:5]
    query = data.collator.batch(queries[:1].numpy(), np.zeros(1, np.int64), training=False)
    height = int(query.heights)
    assert np.array_equal(picture[:height, :64], as_grey(query.images())[0, :height])
