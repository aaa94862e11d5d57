"""The model sees the page and nothing else, and starts where its linear path is best."""

import pytest
import torch
import torch.nn.functional as F

from vaetrain.config import ModelConfig
from vaetrain.model import VAE, coarse_cell

WIDTH, MAX_HEIGHT = 64, 2048
HEIGHTS = [64, 65, 100, 333, 511, 512, 1000, 2047, 2048]


def a_model(**settings) -> VAE:
    """A model with no weight at the special values that a fresh one starts with."""
    torch.manual_seed(0)
    model = VAE(ModelConfig(latent_dim=24, **settings), WIDTH, MAX_HEIGHT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def pages(heights: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = -(-max(heights) // VAE.stride) * VAE.stride
    tall = torch.tensor(heights)
    images = torch.rand(len(heights), 1, rows, WIDTH, generator=torch.Generator().manual_seed(1))
    images *= (torch.arange(rows) < tall[:, None])[:, None, :, None]
    return images, tall


@pytest.mark.parametrize("attention", ["none", "cbam"])
@torch.no_grad()
def test_a_page_alone_and_in_a_padded_batch_are_the_same(attention):
    model = a_model(attention=attention)
    images, heights = pages(HEIGHTS)
    mu, logvar = model.encode(images, heights)
    decoded = model.decode(mu, heights, tuple(images.shape[2:]))
    for number, height in enumerate(HEIGHTS):
        rows = -(-height // VAE.stride) * VAE.stride
        here = slice(number, number + 1)
        own_mu, own_logvar = model.encode(images[here, :, :rows], heights[here])
        alone = model.decode(own_mu, heights[here], (rows, WIDTH))
        torch.testing.assert_close(own_mu, mu[here], rtol=0, atol=1e-5)
        torch.testing.assert_close(own_logvar, logvar[here], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone, decoded[here, :, :rows], rtol=0, atol=1e-4)
        assert (decoded[number, :, height:] == 0).all()
    assert mu.std() > 0.1


@torch.no_grad()
def test_what_the_page_shows_matters_wherever_it_is():
    model = a_model()
    images, heights = pages([512])
    mu, _ = model.encode(images, heights)
    for row in (0, 200, 511):
        changed = images.clone()
        changed[0, 0, row] = 1 - changed[0, 0, row]
        assert (model.encode(changed, heights)[0] - mu).abs().max() > 1e-4


@torch.no_grad()
def test_the_decoder_reaches_beyond_the_tallest_page_it_was_built_for():
    model = a_model()
    decoded = model.decode(torch.randn(1, 24), torch.tensor([4000]), (4000, WIDTH))
    assert decoded.shape == (1, 1, 4000, WIDTH)
    assert decoded.isfinite().all()


def test_a_fresh_posterior_is_known_in_advance():
    """Zero heads: logvar is 0 and mu the linear path's alone, so the KL is half its square."""
    torch.manual_seed(0)
    model = VAE(ModelConfig(latent_dim=24), WIDTH, MAX_HEIGHT)
    images, heights = pages([64, 300])
    mu, logvar = model.encode(images, heights)
    assert (logvar == 0).all()
    coarse = F.avg_pool2d(images, model.cell)
    coarse = F.pad(coarse, (0, 0, 0, model.coarse_size[0] - coarse.shape[2]))
    torch.testing.assert_close(mu, model.to_mu(coarse.flatten(1)))


def test_every_parameter_gets_a_gradient():
    model = a_model()
    images, heights = pages([64, 300])
    model(images, heights, torch.randn(2, 24)).reconstruction.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_noise_moves_the_page_by_the_posterior():
    model = a_model()
    images, heights = pages([64])
    with torch.no_grad():
        still = model(images, heights, torch.zeros(1, 24))
        moved = model(images, heights, torch.ones(1, 24))
        z = still.mu + torch.exp(0.5 * still.logvar)
        expected = model.decode(z, heights, tuple(images.shape[2:]))
    torch.testing.assert_close(moved.reconstruction, expected)
    assert not torch.equal(still.reconstruction, moved.reconstruction)


@pytest.mark.parametrize(("width", "cell"), [(16, 1), (64, 2), (96, 2), (128, 4), (256, 8)])
def test_coarse_cells_divide_the_width(width, cell):
    assert coarse_cell(width) == cell
    assert width % cell == 0


def test_sizes_grow():
    counts = [
        sum(p.numel() for p in VAE(ModelConfig(size=size), 128, 512).parameters())
        for size in ("tiny", "small", "base")
    ]
    assert counts[0] < counts[1] / 2 < counts[2] / 4
