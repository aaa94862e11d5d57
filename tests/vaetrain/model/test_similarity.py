"""What a search goes by: distances of cosines, of a page alone as among others."""

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
    seen = torch.rand(N, S, generator=draw) * torch.arange(1.0, S + 1)
    return mu, torch.randn(N, D, generator=draw), seen


def test_distances_are_those_of_cosines(pages):
    mu, logvar, seen = (part.double().numpy() for part in pages)
    vectors = Similarity(*pages).vectors(pages[0], pages[2])
    unit = np.sqrt(np.exp(logvar / 2).mean(0))
    expected = cosine_distances((mu - mu.mean(0)) / unit)
    expected += 2 * cosine_distances((seen - seen.mean(0)) / seen.std(0))
    np.testing.assert_allclose(torch.cdist(vectors, vectors).square(), expected, atol=1e-10)


def test_a_page_is_measured_by_those_that_are_searched(pages):
    space = Similarity(*pages)
    one = space.vectors(pages[0][3:4], pages[2][3:4])
    torch.testing.assert_close(one[0], space.vectors(pages[0], pages[2])[3])


def test_what_does_not_vary_cannot_drown_the_rest(pages):
    mu, logvar, seen = pages
    seen[:, 0] = 1
    query = seen[:1].clone()
    query[:, 0] = 1.5
    space = Similarity(mu, logvar, seen)
    moved = space.vectors(mu[:1], query) - space.vectors(mu[:1], seen[:1])
    assert 0 < moved.norm() < 1.2  # orthogonal: the root of 2


def test_one_page_alone_can_be_searched():
    space = Similarity(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 3))
    vectors = space.vectors(torch.ones(2, 2), torch.tensor([[1.0, 1, 1], [1, 2, 3]]))
    assert vectors.isfinite().all()
    assert (vectors[0] == 0).all()


def test_cells_hang_from_the_top_whatever_a_page_is_padded_to():
    features = torch.rand(2, 3, 24, 16)
    features[1, :, 9:] = 0
    found = structure(features, 32)
    assert found.shape == (2, 2 * 3 * 4 * 8)
    cell = features[1, 2, 4:8, 8:12]
    means, deviations = found[1].view(2, 3, 8, 4)[:, 2, 1, 2]
    assert float(means) == pytest.approx(float(cell.mean()))
    assert float(deviations) == pytest.approx(float(cell.std(correction=0)), rel=1e-4)
    torch.testing.assert_close(structure(features[1:, :, :16], 32)[0], found[1])


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_a_model_says_how_long_its_vectors_are(latent):
    settings = ["data.width=32", "data.max_height=72", f"model.latent={latent}"]
    experiment = load_experiment(None, settings)
    model = VAE(experiment.model, 32, 72).eval()
    posterior = model.posterior(torch.rand(2, 1, 48, 32), torch.tensor([48, 20]))
    assert model.structure(posterior.levels).shape == (2, model.structure_dim)
