"""The model sees the page and nothing else, and starts where its linear path is best."""

import math

import pytest
import torch
import torch.nn.functional as F

from shards.randomness import sample_keys
from tests.support.models import restless
from vaetrain.config.experiment import load_experiment
from vaetrain.engines.model_options import apply_options
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.config import ModelConfig
from vaetrain.model.gaussian import bounded
from vaetrain.model.linear_path import coarse_cell
from vaetrain.model.masked import rows_at
from vaetrain.model.vae import VAE, Noise, draw_noise

WIDTH, MAX_HEIGHT = 64, 2048
HEIGHTS = [64, 65, 100, 333, 511, 512, 1000, 2047, 2048]


def a_model(**settings) -> VAE:
    """A model with no weight at the special values that a fresh one starts with."""
    model = restless(ModelConfig(latent_dim=24, **settings), WIDTH, MAX_HEIGHT, 0.02)
    return model.eval()


ARCHITECTURES = [
    {"blocks": blocks, "attention": attention, "skips": skips, "latent": latent}
    for blocks in ("resnet", "densenet")
    for attention in ("none", "cbam")
    for skips in ("none", "gated", "hierarchical")
    for latent in ("vector", "spatial")
]
each_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES, ids=lambda a: "-".join(a.values())
)


def noise_for(model: VAE, heights: torch.Tensor, size: tuple[int, int], gate: float = 1.0) -> Noise:
    ids = torch.arange(len(heights))
    return draw_noise(model, sample_keys(0, torch.zeros_like(ids), ids, "eps"), size, gate, 0.0)


def pages(heights: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = -(-max(heights) // VAE.stride) * VAE.stride
    tall = torch.tensor(heights)
    images = torch.rand(len(heights), 1, rows, WIDTH, generator=torch.Generator().manual_seed(1))
    images *= (torch.arange(rows) < tall[:, None])[:, None, :, None]
    return images, tall


@each_architecture
@torch.no_grad()
def test_a_page_alone_and_in_a_padded_batch_are_the_same(architecture):
    model = a_model(**architecture)
    images, heights = pages(HEIGHTS)
    size = tuple(images.shape[2:])
    noise = noise_for(model, heights, size)
    whole = model(images, heights, noise)
    for number, height in enumerate(HEIGHTS):
        rows = -(-height // VAE.stride) * VAE.stride
        here = slice(number, number + 1)
        ids = torch.tensor([number])
        keys = sample_keys(0, torch.zeros_like(ids), ids, "eps")
        own = draw_noise(model, keys, (rows, WIDTH), 1.0, 0.0)
        alone = model(images[here, :, :rows], heights[here], own)
        for ours, theirs in ((alone.mu, whole.mu), (alone.logvar, whole.logvar)):
            same = theirs[here, :, : rows // VAE.stride] if model.is_spatial else theirs[here]
            torch.testing.assert_close(ours, same, rtol=0, atol=1e-5)
        seen = whole.reconstruction[here, :, :rows]
        torch.testing.assert_close(alone.reconstruction, seen, rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.ladder, whole.ladder[here], rtol=1e-5, atol=1e-5)
        assert (whole.reconstruction[number, :, height:] == 0).all()
    assert model.embed(whole.mu, heights).std() > 0.05


@each_architecture
def test_a_batch_cut_in_two_has_the_same_gradient(architecture):
    model = a_model(**architecture)
    objective = Objective(load_experiment(None, []))
    images, heights = pages([64, 100, 333, 320])
    weights = Weights({"recon": 1.0, "ssim": 0.1}, beta=1.0)
    noise = noise_for(model, heights, tuple(images.shape[2:]))

    def gradient(parts: list[slice]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        for part in parts:
            # A part of low pages is padded less.
            rows = -(-int(heights[part].max()) // VAE.stride) * VAE.stride
            ids = torch.arange(4)[part]
            keys = sample_keys(0, torch.zeros_like(ids), ids, "eps")
            own = draw_noise(model, keys, (rows, WIDTH), 1.0, 0.0)
            page = images[part, :, :rows]
            output = model(page, heights[part], own)
            losses, _ = objective(output, page, heights[part], weights)
            (losses.sum() / 4).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    assert noise.eps.isfinite().all()
    together, apart = gradient([slice(0, 4)]), gradient([slice(0, 2), slice(2, 4)])
    largest = max(float(value.abs().max()) for value in together.values())
    for name, value in together.items():
        torch.testing.assert_close(apart[name], value, rtol=1e-4, atol=5e-6 * largest)


@each_architecture
def test_every_parameter_gets_a_gradient(architecture):
    model = a_model(**architecture)
    images, heights = pages([64, 300])
    output = model(images, heights, noise_for(model, heights, tuple(images.shape[2:])))
    (output.reconstruction.square().sum() + output.ladder.sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("skips", ["gated", "hierarchical"])
@torch.no_grad()
def test_without_an_encoder_a_decoder_with_skips_still_decodes(skips):
    model = a_model(skips=skips)
    images, heights = pages([64, 300])
    size = tuple(images.shape[2:])
    posterior = model.posterior(images, heights)
    alone = model.reconstruct(posterior, heights, size, skips=False).reconstruction
    torch.testing.assert_close(alone, model.decode(posterior.mu, heights, size))
    assert not torch.allclose(alone, model.reconstruct(posterior, heights, size).reconstruction)


@pytest.mark.parametrize("skips", ["gated", "hierarchical"])
@torch.no_grad()
def test_a_shut_gate_is_no_skip(skips):
    model = a_model(skips=skips)
    images, heights = pages([64, 300])
    size = tuple(images.shape[2:])
    shut = noise_for(model, heights, size, gate=0.0)
    open_for_one = shut._replace(gate=torch.tensor([1.0, 0.0]))
    none, one = model(images, heights, shut), model(images, heights, open_for_one)
    z = none.mu + torch.exp(0.5 * none.logvar) * shut.eps
    alone = model.decode(z, heights, size, shut.ladder)
    torch.testing.assert_close(none.reconstruction, alone)
    assert (none.ladder == 0).all()
    assert torch.equal(none.reconstruction[1], one.reconstruction[1])
    assert not torch.allclose(none.reconstruction[0], one.reconstruction[0])


def test_skip_dropout_shuts_its_share_of_pages_and_whole_ones():
    model = VAE(ModelConfig(skips="gated", latent_dim=4), WIDTH, 64)
    ids = torch.arange(4000)
    keys = sample_keys(0, torch.zeros_like(ids), ids, "eps")
    gate = draw_noise(model, keys, (16, WIDTH), 0.8, 0.3).gate
    assert gate.unique().tolist() == pytest.approx([0.0, 0.8])
    assert float((gate == 0).float().mean()) == pytest.approx(0.3, abs=0.03)


@torch.no_grad()
def test_a_ladders_kl_is_that_of_its_gaussians():
    """From the means and variances of prior and posterior in full, by torch.distributions."""
    torch.manual_seed(0)
    level = a_model(skips="hierarchical").decoder.skips[0]
    channels = level.prior.in_channels
    x, features = torch.randn(2, channels, 4, 6), torch.randn(2, channels, 4, 6)
    rows = rows_at(torch.tensor([4, 3]), 4)
    _, nats = level(x, features, torch.tensor([1.0, 0.3]), None, rows)
    mean, logvar = level.prior(x).chunk(2, 1)
    mu, own = level.posterior(torch.cat([x, features], 1)).chunk(2, 1)
    deviation = torch.exp(0.5 * bounded(logvar))
    prior = torch.distributions.Normal(mean, deviation)
    gate = torch.tensor([1.0, 0.3])[:, None, None, None]
    posterior = torch.distributions.Normal(
        mean + deviation * gate * mu, deviation * torch.exp(0.5 * gate * bounded(own))
    )
    kl = torch.distributions.kl_divergence(posterior, prior)
    expected = torch.stack([kl[0].sum(), kl[1, :, :3].sum()])
    torch.testing.assert_close(nats, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_draws_of_the_levels_are_independent():
    model = a_model(skips="hierarchical", latent="spatial")
    noise = noise_for(model, torch.tensor([512]), (512, WIDTH))
    cut = [eps[0, 0, :20, :4].flatten() for eps in (noise.eps, *noise.ladder)]
    correlations = torch.corrcoef(torch.stack(cut)).fill_diagonal_(0)
    assert correlations.abs().max() < 0.4
    for eps in (noise.eps, *noise.ladder):
        assert float(eps.mean()) == pytest.approx(0, abs=5 / eps.numel() ** 0.5)
        assert float(eps.std()) == pytest.approx(1, abs=5 / eps.numel() ** 0.5)


@pytest.mark.parametrize("option", ["channels_last", "checkpoint_activations"])
def test_options_do_not_change_gradients(option):
    images, heights = pages([64, 100])
    gradients = []
    for on in (False, True):
        model = a_model(skips="hierarchical")
        apply_options(model, torch.device("cpu"), **{option: on})
        output = model(images, heights, noise_for(model, heights, tuple(images.shape[2:])))
        output.reconstruction.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-3)


def test_a_sigmoid_output_lies_between_black_and_white():
    model = a_model(output="sigmoid")
    images, heights = pages([64, 100])
    output = model(images, heights, noise_for(model, heights, tuple(images.shape[2:])))
    page = output.reconstruction
    assert (page[0, :, 64:] == 0).all()
    torch.testing.assert_close(page[1, :, :100], torch.sigmoid(output.logits[1, :, :100]))
    assert not torch.allclose(
        a_model()(images, heights, noise_for(model, heights, (112, WIDTH)))[0], page
    )


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
    linear = model.linear
    coarse = F.avg_pool2d(images, linear.cell)
    coarse = F.pad(coarse, (0, 0, 0, linear.size[0] - coarse.shape[2]))
    torch.testing.assert_close(mu, linear.to_mu(coarse.flatten(1)))


def test_the_noise_moves_the_page_by_the_posterior():
    model = a_model()
    images, heights = pages([64])
    with torch.no_grad():
        gate = torch.ones(1)
        still = model(images, heights, Noise(torch.zeros(1, 24), (), gate))
        moved = model(images, heights, Noise(torch.ones(1, 24), (), gate))
        z = still.mu + torch.exp(0.5 * still.logvar)
        expected = model.decode(z, heights, tuple(images.shape[2:]))
    torch.testing.assert_close(moved.reconstruction, expected)
    assert not torch.equal(still.reconstruction, moved.reconstruction)


@pytest.mark.parametrize(("width", "cell"), [(16, 1), (64, 1), (96, 1), (128, 2), (256, 4)])
def test_coarse_cells_divide_the_width(width, cell):
    assert coarse_cell(width) == cell
    assert width % cell == 0


@pytest.mark.parametrize("blocks", ["resnet", "densenet"])
def test_sizes_grow(blocks):
    with torch.device("meta"):
        models = [
            VAE(ModelConfig(size=size, blocks=blocks, start="random"), 128, 512)
            for size in ("tiny", "small", "base", "large")
        ]
    counts = [sum(p.numel() for p in model.decoder.stages.parameters()) for model in models]
    assert counts[0] < counts[1] / 2 < counts[2] / 4 < counts[3] / 8


def test_the_large_model_has_a_hundred_million_parameters():
    with torch.device("meta"):
        model = VAE(ModelConfig(size="large"), 128, 512)
    assert sum(p.numel() for p in model.parameters()) >= 100_000_000


def test_the_kl_of_a_fresh_model_is_what_its_heads_say():
    """mu 0 where the linear path is cut off, logvar as started: 0.5 (exp(v) - 1 - v) each."""
    torch.manual_seed(0)
    model = VAE(ModelConfig(latent_dim=24), WIDTH, MAX_HEIGHT)
    nothing = torch.zeros(24, math.prod(model.linear.size))
    model.start_from_pca(torch.zeros(math.prod(model.linear.size)), nothing, torch.ones(24))
    images, heights = pages([64, 300])
    output = model(images, heights, noise_for(model, heights, tuple(images.shape[2:])))
    expected = 0.5 * (math.exp(-3) - 1 + 3)
    torch.testing.assert_close(
        kl_per_page_and_dimension(output), torch.full((2, 24), expected), rtol=1e-4, atol=0
    )
