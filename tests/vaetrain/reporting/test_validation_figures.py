"""Figures of a validation: for every kind of latent, with the right values in the right order."""

import numpy as np
import pytest
import torch

from tests.vaetrain.reporting.conftest import validation
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.evaluation.validation import EncodedPages
from vaetrain.page_pictures import GAP, as_grey
from vaetrain.reporting import validation_figures
from vaetrain.reporting.validation_figures import latent_charts, neighbour_figure, traversals


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
    figures = validation_figures.validation_figures(*validation(shards, *settings, count=count))
    assert all(picture.dtype == "uint8" and picture.ndim == 2 for picture in figures.values())
    assert {"reconstructions", "prior_samples", "latent/kl_of_dimensions"} <= set(figures)
    several = {"latent/traversals", "latent/std_of_mu", "latent/histograms"}
    assert several & set(figures) == (several if count > 1 else set())
    assert ("latent/kl_of_ladder_levels" in figures) == ("model.skips=hierarchical" in settings)
    if count == 12:
        assert "nearest_neighbours" in figures


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
    decode = model.decode

    def record(z, heights, size):
        latents.append(model.embed(model.keep_latent(z, heights), heights))
        return decode(z, heights, size)

    monkeypatch.setattr(model, "decode", record)
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
    _, data, pages = validation(shards, "model.latent_dim=8", count=40)
    queries = data.fixed_pages().ids
    read = []
    monkeypatch.setattr(
        validation_figures,
        "_read",
        lambda data, ids, real=validation_figures._read: read.append(ids) or real(data, ids),
    )
    (picture,) = neighbour_figure(data, pages, queries).values()
    assert [line[0] for line in read] == queries[::2].tolist()
    templates = dict(
        zip(
            pages.ids.tolist(),
            PageLabels.from_index(data.index, pages.ids).templates.tolist(),
            strict=True,
        )
    )
    places = dict(zip(pages.ids.tolist(), pages.search_vectors(), strict=True))
    for page, *neighbours in [line.tolist() for line in read]:
        others = [n for n in places if templates[n] != templates[page]]
        nearest = sorted(others, key=lambda n: float((places[n] - places[page]).norm()))
        assert neighbours == nearest[:5]
    query = data.collator.batch(queries[:1].numpy(), np.zeros(1, np.int64), training=False)
    height = int(query.heights)
    assert np.array_equal(picture[:height, :64], as_grey(query.images())[0, :height])
