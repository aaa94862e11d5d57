"""The embedding: what a page's structure describes, and what distances of vectors are."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances

from vaetrain.config.experiment import load_experiment
from vaetrain.model.embedding import (
    LEVELS,
    EmbeddingSpace,
    StructureSizes,
    level_shares,
    page_structure,
    structure_sizes,
)
from vaetrain.model.masked import rows_at
from vaetrain.model.vae import VAE
from vaetrain.settings import ConfigError

N, D = 60, 5
SIZES = StructureSizes(8, 3, 4, 6, 1)


@pytest.fixture
def pages() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    mu = torch.randn(N, D, generator=draw) + 3
    structure = torch.rand(N, sum(SIZES), generator=draw) * torch.arange(1.0, sum(SIZES) + 1)
    return mu, torch.randn(N, D, generator=draw), structure


def test_squared_distances_are_weighted_cosine_distances(pages):
    mu, logvar, structure = (part.double().numpy() for part in pages)
    vectors = EmbeddingSpace.fit(*pages, SIZES).vectors(pages[0], pages[2])
    unit = np.sqrt(np.exp(logvar / 2).mean(0))
    expected = 0.5 * cosine_distances((mu - mu.mean(0)) / unit)
    edges, statistics = structure[:, :8], structure[:, 8:]
    expected += 0.5 * cosine_distances((edges - edges.mean(0)) / edges.std(0))
    scale = np.repeat(SIZES[1:], SIZES[1:]) ** 0.5 * statistics.std(0)
    table = (statistics - statistics.mean(0)) / scale
    # Without pairs: whitened principal components, one for ten pages and one more.
    left, _, _ = np.linalg.svd(table, full_matrices=False)
    expected += cosine_distances(left[:, : 1 + N // 10])
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    np.testing.assert_allclose(distances.square(), expected, atol=1e-9)
    np.testing.assert_allclose(vectors.norm(dim=1), 1)


def test_pairs_are_nearer_in_a_space_that_was_fitted_to_them():
    """Statistics of a pair agree in some columns only, and these are small."""
    draw = torch.Generator().manual_seed(0)
    kept = torch.randn(100, 6, generator=draw)
    tables = []
    for _ in range(2):
        changed = 5 * torch.randn(100, sum(SIZES) - 6, generator=draw)
        tables.append(torch.cat([changed, kept], 1))
    structure = torch.cat(tables)
    mu = torch.randn(200, D, generator=draw)
    pairs = torch.stack([torch.arange(100), torch.arange(100, 200)], 1)
    near = {}
    for name, used in (("with", pairs), ("without", None)):
        space = EmbeddingSpace.fit(mu, torch.zeros_like(mu), structure, SIZES, used)
        vectors = space.vectors(mu, structure)[:, D + SIZES.edges :]
        distances = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf)
        near[name] = float((distances[:100].argmin(dim=1) == pairs[:, 1]).double().mean())
    assert near["with"] > 2 * near["without"]


def test_a_dimension_without_variance_does_not_dominate(pages):
    mu, logvar, structure = pages
    structure[:, 0] = 1
    space = EmbeddingSpace.fit(mu, logvar, structure, SIZES)
    query = structure[:1].clone()
    query[:, 0] = 1.5
    moved = space.vectors(mu[:1], query) - space.vectors(mu[:1], structure[:1])
    assert 0 < moved.norm() < 0.6  # orthogonal edges: sqrt(0.5)


def test_a_space_of_a_single_page_gives_finite_vectors():
    structure = torch.ones(1, sum(SIZES))
    space = EmbeddingSpace.fit(torch.ones(1, D), torch.zeros(1, D), structure, SIZES)
    others = torch.rand(3, sum(SIZES))
    assert space.vectors(torch.rand(3, D), others).isfinite().all()


def test_tensors_restore_the_space(pages):
    space = EmbeddingSpace.fit(*pages, SIZES, torch.tensor([[0, 1], [2, 3]]))
    assert space.fits(D, SIZES)
    assert not space.fits(D + 1, SIZES)
    assert not space.fits(D, SIZES._replace(edges=9))
    restored = EmbeddingSpace.from_tensors(space.tensors())
    assert torch.equal(*(each.vectors(pages[0], pages[2]) for each in (space, restored)))


def test_structure_is_the_same_for_any_padding():
    heights = torch.tensor([40, 23])
    images = torch.rand(2, 1, 48, 32)
    images[1, :, 23:] = 0
    maps = torch.rand(2, 3, 3, 2)
    maps[1, :, 2:] = 0
    whole = page_structure(images, heights, 96, (maps, rows_at(heights, 3, 16)))
    assert whole.shape == (2, sum(structure_sizes(96, 32, 3)))
    low = rows_at(heights[1:], 2, 16)
    alone = page_structure(images[1:, :, :32], heights[1:], 96, (maps[1:, :, :2], low))
    torch.testing.assert_close(alone[0], whole[1])


def test_edges_are_mean_differences_in_cells_from_the_top():
    images, heights = torch.rand(1, 1, 32, 32), torch.tensor([32])
    level = (torch.rand(1, 3, 2, 2), rows_at(heights, 2, 16))
    edges = page_structure(images, heights, 64, level)[0, :64].view(2, 8, 4)
    page = images[0, 0].numpy()
    across = np.abs(np.diff(page, axis=1))[8:16, 16:24].mean()
    down = np.abs(np.diff(page, axis=0))[8:16, 16:24].mean()
    assert edges[:, 1, 2].tolist() == pytest.approx([across, down], rel=1e-5)
    assert (edges[:, 4:] == 0).all()


def test_level_shares_are_roots_of_shares_of_the_page():
    images = torch.zeros(1, 1, 8, 4)
    images[0, 0, :3] = 2 / 40
    images[0, 0, 3] = 1
    expected = torch.zeros(LEVELS)
    expected[[0, 2, LEVELS - 1]] = torch.tensor([2 / 6, 3 / 6, 1 / 6]).sqrt()
    torch.testing.assert_close(level_shares(images, torch.tensor([6]))[0], expected)


@pytest.mark.parametrize("latent", ["vector", "spatial"])
def test_a_model_embeds_pages_once_it_has_a_space(latent):
    settings = ["data.width=32", "data.max_height=72", f"model.latent={latent}"]
    experiment = load_experiment(None, settings)
    model = VAE(experiment.model, 32, 72).eval()
    images, heights = torch.rand(2, 1, 48, 32), torch.tensor([48, 20])
    images[1, :, 20:] = 0
    with pytest.raises(ConfigError, match="no statistics of the embedding"):
        model.embedding(images, heights)
    with torch.no_grad():
        mu, logvar, levels = model.posterior(images, heights)
        latents = [model.embed(x, heights) for x in (mu, logvar)]
        structure = model.structure(images, heights, levels)
    model.space = EmbeddingSpace.fit(*latents, structure, model.structure_sizes)
    vectors = model.embedding(images, heights)
    torch.testing.assert_close(vectors, model.space.vectors(latents[0], structure))
    low = model.embedding(images[1:, :, :20], heights[1:])  # padded to a multiple of 16
    # float64 vectors of a network in float32, whose sums depend on the padding
    torch.testing.assert_close(low, vectors[1:], atol=1e-6, rtol=1e-5)
