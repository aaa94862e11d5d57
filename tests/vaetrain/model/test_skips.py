"""Skip connections: gates, and the ladder of latents."""

import pytest
import torch

from tests.support.models import noise_for
from tests.vaetrain.model.pages import build_model, random_pages
from vaetrain.model.gaussian import bounded
from vaetrain.model.masked import rows_at

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
    channels = level.prior.in_channels
    x, features = torch.randn(2, channels, 4, 6), torch.randn(2, channels, 4, 6)
    gate = torch.tensor([1.0, 0.3])
    _, kl = level(x, features, gate, None, rows_at(torch.tensor([4, 3]), 4))
    mean, logvar = level.prior(x).chunk(2, 1)
    mu, own_logvar = level.posterior(torch.cat([x, features], 1)).chunk(2, 1)
    deviation, gate = torch.exp(0.5 * bounded(logvar)), gate[:, None, None, None]
    prior = torch.distributions.Normal(mean, deviation)
    posterior = torch.distributions.Normal(
        mean + deviation * gate * mu, deviation * torch.exp(0.5 * gate * bounded(own_logvar))
    )
    expected = torch.distributions.kl_divergence(posterior, prior)
    expected = torch.stack([expected[0].sum(), expected[1, :, :3].sum()])
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-5)
