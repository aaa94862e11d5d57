"""Linear paths between pages and latents."""

import math

import pytest
import torch

from vaetrain.model.linear_path import PatchPath, VectorPath, coarse_cell
from vaetrain.model.masked import rows_at


@pytest.mark.parametrize(("width", "cell"), [(16, 1), (64, 1), (96, 1), (128, 2), (256, 4)])
def test_coarse_cells_divide_the_width(width, cell):
    assert coarse_cell(width) == cell
    assert width % cell == 0


def test_a_pca_gives_whitened_projections_and_their_pages():
    path = VectorPath(latent_dim=5, width=128, rows=64)
    cells = math.prod(path.size)
    components = torch.linalg.qr(torch.randn(cells, 3)).Q.T
    mean, deviations = torch.rand(cells), torch.tensor([3.0, 2.0, 0.5])
    path.start_from_pca(mean, components, deviations)
    images = torch.rand(4, 1, 64, 128)
    mu = path.mu(images, rows_at(torch.full((4,), 64), 64))
    projected = (path.coarse(images) - mean) @ components.T
    torch.testing.assert_close(mu[:, :3], projected / deviations, rtol=1e-4, atol=1e-4)
    assert (mu[:, 3:] == 0).all()
    page = path.page(mu, 64).flatten(1)
    torch.testing.assert_close(page, projected @ components + mean, rtol=1e-4, atol=1e-4)


def test_a_new_vector_path_decodes_blank_pages():
    assert (VectorPath(5, 64, 64).page(torch.randn(2, 5), 48) == 0).all()


def test_a_patch_path_with_enough_dimensions_reproduces_the_coarse_page():
    path = PatchPath(latent_dim=64, width=128)
    images = torch.rand(2, 1, 32, 128)
    bias = path.to_mu.bias.detach().clone()
    mu = path.mu(images, rows_at(torch.tensor([32, 32]), 2, 16))
    page = path.page(mu - bias[:, None, None], 32) - path.page(torch.zeros_like(mu), 32)
    coarse = torch.nn.functional.avg_pool2d(images, path.cell)
    torch.testing.assert_close(page, coarse, rtol=1e-4, atol=1e-5)
