"""Skip connections: gates, and the ladder of latents."""

import pytest
import torch

from tests.support.models import noise_for
from tests.vaetrain.model.pages import build_model, random_pages
from vaetrain.model.config import ModelConfig
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.vae import VAE

each_kind = pytest.mark.parametrize("skips", ["gated", "hierarchical"])


@each_kind
@torch.no_grad()
def test_a_decoder_with_skips_decodes_without_an_encoder(skips):
    model = build_model(skips=skips)
    images, heights = random_pages([64, 300])
    size = tuple(images.shape[2:])
    posterior = model.posterior(images, heights)
    without = model.reconstruct(posterior, heights, size, skips=False).reconstruction
    torch.testing.assert_close(without, model.decode(posterior.mu, heights, size))
    assert not torch.allclose(without, model.reconstruct(posterior, heights, size).reconstruction)


@each_kind
@torch.no_grad()
def test_a_closed_gate_gives_the_page_without_skips(skips):
    model = build_model(skips=skips)
    images, heights = random_pages([64, 300])
    size = tuple(images.shape[2:])
    closed = noise_for(model, size, [0, 1], gate=0.0)
    output = model(images, heights, closed)
    z = output.mu + torch.exp(0.5 * output.logvar) * closed.eps
    torch.testing.assert_close(output.reconstruction, model.decode(z, heights, size, closed.ladder))
    assert (output.ladder == 0).all()


@each_kind
@torch.no_grad()
def test_each_page_has_its_own_gate(skips):
    model = build_model(skips=skips)
    images, heights = random_pages([64, 300])
    closed = noise_for(model, tuple(images.shape[2:]), [0, 1], gate=0.0)
    both_closed = model(images, heights, closed).reconstruction
    one_open = model(images, heights, closed._replace(gate=torch.tensor([1.0, 0.0]))).reconstruction
    assert torch.equal(both_closed[1], one_open[1])
    assert not torch.allclose(both_closed[0], one_open[0])


@torch.no_grad()
def test_the_kl_of_a_ladder_level_equals_torch_distributions():
    torch.manual_seed(0)
    level = build_model(skips="hierarchical").decoder.skips[0]
    channels = level.project.out_channels
    rows = rows_at(torch.tensor([4, 3]), 4)
    x, features = keep(torch.randn(2, 2, channels, 4, 6), rows)
    gate = torch.tensor([1.0, 0.3])
    _, kl = level(x, features, gate, None, rows)
    mean, logvar = level.prior(x, rows)
    difference, log_ratio = level.posterior(torch.cat([x, features], 1), rows)
    deviation, gate = torch.exp(0.5 * logvar), gate[:, None, None, None]
    prior = torch.distributions.Normal(mean, deviation)
    posterior = torch.distributions.Normal(
        mean + gate * difference, deviation * torch.exp(0.5 * gate * log_ratio)
    )
    expected = torch.distributions.kl_divergence(posterior, prior)
    expected = torch.stack([expected[0].sum(), expected[1, :, :3].sum()])
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("channels", [[1, 2, 3, 4], [1, 0, 3, 0]])
def test_levels_of_a_ladder_have_their_own_dimensions_or_are_left_out(channels):
    config = ModelConfig(skips="hierarchical", ladder_channels=channels, latent_dim=4)
    model = VAE(config, 32, 64)
    all_sizes = zip(channels, [(4, 2), (8, 4), (16, 8), (32, 16)], strict=True)
    expected = [(count, *size) for count, size in all_sizes if count]
    noise = noise_for(model, (64, 32), [0])
    assert model.ladder_shapes((64, 32)) == expected
    assert [tuple(level.shape[1:]) for level in noise.ladder] == expected
    output = model(torch.rand(1, 1, 64, 32), torch.tensor([64]), noise)
    assert output.ladder.shape == (1, len(expected))


@torch.no_grad()
def test_pages_without_skips_are_trained_with_the_means_of_the_levels():
    model = build_model(skips="hierarchical")
    images, heights = random_pages([64, 300])
    size = tuple(images.shape[2:])
    dropped = noise_for(model, size, [0, 1], dropout=1.0)
    output = model(images, heights, dropped)
    z = output.mu + torch.exp(0.5 * output.logvar) * dropped.eps
    torch.testing.assert_close(output.reconstruction, model.decode(z, heights, size))
    sampled = noise_for(model, size, [0, 1], gate=0.0)
    assert not torch.allclose(model.decode(z, heights, size, sampled.ladder), output.reconstruction)


def test_the_first_steps_put_information_into_the_levels():
    """One dimension cannot tell these pages apart. The price of the levels is still 0, as in the
    first epochs, after which levels that carry nothing would stay empty.
    """
    torch.manual_seed(0)
    config = ModelConfig(skips="hierarchical", attention="none", latent_dim=1)
    model = VAE(config, 32, 32)
    corners = torch.randint(0, 24, (8, 2), generator=torch.Generator().manual_seed(0)).tolist()
    images, heights = torch.zeros(8, 1, 32, 32), torch.full((8,), 32)
    for page, (top, left) in zip(images, corners, strict=True):
        page[0, top : top + 8, left : left + 8] = 0.5
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(40):
        noise = noise_for(model, (32, 32), list(range(8 * step, 8 * step + 8)), dropout=0.25)
        error = (model(images, heights, noise).reconstruction - images).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    with torch.no_grad():
        posterior = model.posterior(images, heights)
        whole = model.reconstruct(posterior, heights, (32, 32))
        alone = model.reconstruct(posterior, heights, (32, 32), skips=False)
    errors = [(each.reconstruction - images).abs().mean().item() for each in (whole, alone)]
    assert errors[0] < 0.7 * errors[1]
