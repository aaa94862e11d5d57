"""PCA, compared with numpy's SVD, and a model that starts from it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vaetrain.model import pca
from vaetrain.model.config import ModelConfig
from vaetrain.model.pca import (
    principal_components,
    principal_coordinates,
    shared_principal_components,
)
from vaetrain.model.vae import VAE
from vaetrain.training import pca_start


def random_table(pages: int, cells: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(3, 0.1, cells, dtype=torch.float64)
    return torch.randn(pages, cells, generator=generator, dtype=torch.float64) * scales + 1


@pytest.mark.parametrize(("pages", "cells"), [(40, 100), (200, 30)])
def test_components_are_the_singular_vectors(pages, cells):
    table = random_table(pages, cells)
    mean, components, deviations = principal_components(table, 10)
    centred = table.numpy() - table.numpy().mean(0)
    _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(mean.numpy(), table.numpy().mean(0))
    np.testing.assert_allclose(deviations.numpy(), singular[:10] / pages**0.5)
    cosines = np.abs((components.numpy() * vectors[:10]).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-9)
    assert (components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all()


def test_fewer_pages_than_dimensions_give_fewer_components():
    _, components, deviations = principal_components(random_table(5, 50), 10)
    assert len(components) == len(deviations) == 4


def test_principal_coordinates_keep_distances(monkeypatch):
    monkeypatch.setattr("vaetrain.model.pca.COLUMNS", 64)  # does not divide 300
    wide = torch.randn(20, 300, generator=torch.Generator().manual_seed(0))
    coordinates = principal_coordinates(wide)
    assert coordinates.shape == (20, 20)
    torch.testing.assert_close(
        torch.cdist(coordinates, coordinates),
        torch.cdist(wide.double(), wide.double()),
        rtol=1e-6,
        atol=1e-6,
    )


@torch.no_grad()
def test_a_model_that_starts_from_pca_projects_on_the_components():
    torch.manual_seed(0)
    model = VAE(ModelConfig(latent_dim=12), 64, 128)
    images = torch.rand(30, 1, 128, 64)
    heights = torch.full((30,), 128)
    table = model.linear.coarse(images).double()
    mean, components, deviations = principal_components(table, 12)
    model.start_from_pca(mean.float(), components.float(), deviations.float())
    mu, logvar = model.encode(images, heights)
    torch.testing.assert_close(mu.var(0, unbiased=False), torch.ones(12), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mu.mean(0), torch.zeros(12), rtol=0, atol=1e-3)
    assert logvar.max() < -2
    projected = mean + (table - mean) @ components.T @ components
    decoded = model.decode(mu, heights, (128, 64))
    torch.testing.assert_close(
        model.linear.coarse(decoded).double(), projected, rtol=1e-3, atol=1e-3
    )


class OneRank:
    """One of two ranks; the main rank's broadcasts are kept, and the other one receives them."""

    device, world_size = torch.device("cpu"), 2

    def __init__(self, sent: list[torch.Tensor], *, is_main: bool) -> None:
        self.sent, self.is_main = sent, is_main

    def mark_progress(self, place: str) -> None:
        pass

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        if self.is_main:
            self.sent.append(values)
            return values
        received = self.sent.pop(0)
        assert (received.shape, received.dtype) == (values.shape, values.dtype)
        return received


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_the_main_process_computes_the_components(monkeypatch, dtype):
    """Each rank repeated the decomposition of up to 4096 x 4096, with one thread."""
    table = random_table(5, 50).to(dtype)
    expected = principal_components(table, 10)
    sent: list[torch.Tensor] = []
    threads = []
    monkeypatch.setattr(pca, "machine_threads", lambda: 2)

    def compute(*arguments):
        threads.append(torch.get_num_threads())
        return principal_components(*arguments)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(pca, "principal_components", compute)
    shared_principal_components(table, 10, OneRank(sent, is_main=True))
    assert (threads, torch.get_num_threads()) == ([2], 1)
    torch.set_num_threads(before)
    received = shared_principal_components(table, 10, OneRank(sent, is_main=False))
    assert len(threads) == 1
    for part, wanted in zip(received, expected, strict=True):
        torch.testing.assert_close(part, wanted)


def test_a_rank_other_than_the_main_one_decomposes_nothing(monkeypatch):
    """The start from a PCA asks for the components of the main process."""
    table, sent = random_table(5, 50).float(), []
    monkeypatch.setattr(pca_start, "for_each_page", lambda *_: (None, None, table))
    linear = SimpleNamespace(to_mu=SimpleNamespace(in_features=50))
    started: list[torch.Tensor] = []
    model = SimpleNamespace(
        linear=linear, latent_dim=10, start_from_pca=lambda *parts: started.append(parts[1])
    )
    train = SimpleNamespace(thinned=lambda count: None)
    data = SimpleNamespace(train=train, pages=lambda selection: None)
    pca_start.start_from_pca(model, data, OneRank(sent, is_main=True))
    monkeypatch.delattr(torch.linalg, "eigh")
    pca_start.start_from_pca(model, data, OneRank(sent, is_main=False))
    torch.testing.assert_close(*started, rtol=0, atol=0)
