"""Vectors for search: their distances, and the structure of a page."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances

from vaetrain.config.experiment import load_experiment
from vaetrain.model.similarity import Similarity, structure
from vaetrain.model.vae import VAE

N, D, S = 30, 5, 8


@pytest.fixture
def pages() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    mu = torch.randn(N, D, generator=draw) + 3
    boxes = torch.rand(N, S, generator=draw) * torch.arange(1.0, S + 1)
    return mu, torch.randn(N, D, generator=draw), boxes


def test_squared_distances_are_weighted_cosine_distances(pages):
    mu, logvar, boxes = (part.double().numpy() for part in pages)
    vectors = Similarity(*pages).vectors(pages[0], pages[2])
    unit = np.sqrt(np.exp(logvar / 2).mean(0))
    expected = cosine_distances((mu - mu.mean(0)) / unit)
    expected += 2 * cosine_distances((boxes - boxes.mean(0)) / boxes.std(0))
    np.testing.assert_allclose(torch.cdist(vectors, vectors).square(), expected, atol=1e-10)


def test_a_single_query_has_its_vector_among_all_pages(pages):
    space = Similarity(*pages)
    one = space.vectors(pages[0][3:4], pages[2][3:4])
    torch.testing.assert_close(one[0], space.vectors(pages[0], pages[2])[3])


def test_a_dimension_without_variance_does_not_dominate(pages):
    mu, logvar, boxes = pages
    boxes[:, 0] = 1
    query = boxes[:1].clone()
    query[:, 0] = 1.5
    space = Similarity(mu, logvar, boxes)
    moved = space.vectors(mu[:1], query) - space.vectors(mu[:1], boxes[:1])
    assert 0 < moved.norm() < 1.2  # orthogonal vectors: sqrt(2)


def test_a_single_page_can_be_searched():
    space = Similarity(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 3))
    vectors = space.vectors(torch.ones(2, 2), torch.tensor([[1.0, 1, 1], [1, 2, 3]]))
    assert vectors.isfinite().all()
    assert (vectors[0] == 0).all()


def test_structure_cells_are_anchored_at_the_top_for_any_padding():
    features = torch.rand(2, 3, 24, 16)
    features[1, :, 9:] = 0
    result = structure(features, 32)
    assert result.shape == (2, 2 * 3 * 4 * 8)
    cell = features[1, 2, 4:8, 8:12]
    means, deviations = result[1].view(2, 3, 8, 4)[:, 2, 1, 2]
    assert float(means) == pytest.approx(float(cell.mean()))
    assert float(deviations) == pytest.approx(float(cell.std(correction=0)), rel=1e-4)
    torch.testing.assert_close(structure(features[1:, :, :16], 32)[0], result[1])


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_structure_dim_is_the_length_of_structure_vectors(latent):
    settings = ["data.width=32", "data.max_height=72", f"model.latent={latent}"]
    experiment = load_experiment(None, settings)
    model = VAE(experiment.model, 32, 72).eval()
    posterior = model.posterior(torch.rand(2, 1, 48, 32), torch.tensor([48, 20]))
    assert model.structure(posterior.levels).shape == (2, model.structure_dim)
