"""The fit of the prior: what it learns, and that it is repeatable."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from shards.randomness import sample_keys
from tests.support.engines import FakeEngine
from tests.vaetrain.model.pages import WIDTH, build_model, random_pages
from vaetrain.inference.prior_samples import draw_pages
from vaetrain.model.vae import VAE
from vaetrain.prior.config import PriorConfig
from vaetrain.prior.flow import Flow
from vaetrain.prior.prior import Prior, build_flow
from vaetrain.training import prior_fit
from vaetrain.training.prior_fit import Latents, fit_flow, fit_steps, posterior_values

CONFIG = PriorConfig(kind="flow", width=32, blocks=2, steps=300, epochs=10_000, batch=64, lr=3e-3)


def two_clusters(count: int = 256) -> Latents:
    """Latents at (-4, 0) with label 0 and height 20, and at (4, 0) with label 1 and height 80."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(count) % 2
    mu = torch.stack([8.0 * side - 4, torch.zeros(count)], dim=1)
    mu += 0.2 * torch.randn(count, 2, generator=generator)
    heights = 20 + 60 * side
    return Latents(mu, torch.full_like(mu, 0.1), heights, side, ["left", "right"])


@pytest.fixture(scope="module")
def flow() -> Flow:
    """A flow fitted to the two clusters."""
    return fit(CONFIG)


def fit(config: PriorConfig) -> Flow:
    torch.manual_seed(0)
    flow = Flow((2,), 2, 100, config.width, config.blocks)
    return fit_flow(flow, two_clusters(), config, FakeEngine())


def sides(flow: Flow, heights: Tensor, labels: Tensor) -> Tensor:
    noise = torch.randn(len(heights), 2, generator=torch.Generator().manual_seed(3))
    return flow.decode_noise(noise, heights, labels)[:, 0]


def test_samples_are_of_the_clusters_and_follow_height_and_label(flow):
    low, high = torch.full((64,), 20), torch.full((64,), 80)
    no_label = torch.full((64,), 2)
    mixed = torch.where(torch.arange(64) % 2 == 0, low, high)
    x = sides(flow, mixed, no_label)
    assert (x.abs() - 4).abs().median() < 0.5  # a normal distribution has a median of 1.3 here
    assert (sides(flow, low, no_label) < 0).float().mean() > 0.9
    assert (sides(flow, high, no_label) > 0).float().mean() > 0.9
    assert (sides(flow, low, torch.zeros(64, dtype=torch.long)) < 0).float().mean() > 0.9


def test_a_fit_is_repeatable_and_leaves_no_gradients():
    short = dataclasses.replace(CONFIG, steps=20)
    one, other = fit(short), fit(short)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_small_data_sets_take_fewer_steps():
    config = PriorConfig(steps=2000, epochs=200, batch=128)
    assert fit_steps(437, config) == 800
    assert fit_steps(100_000, config) == 2000


def test_a_spatial_latent_is_padded_to_the_tallest_page_and_its_prior_makes_pages():
    model = build_model(latent="spatial").eval()
    images, heights = random_pages([64, 37])
    batch = SimpleNamespace(images=lambda: images, heights=heights)
    shape = model.latent_shape((4 * VAE.stride + images.shape[2], WIDTH))
    values = posterior_values(model, batch, shape).unflatten(1, (2, *shape))
    mu, logvar, _ = model.posterior(images, heights)
    rows = mu.shape[2]
    torch.testing.assert_close(values[:, 0, :, :rows], mu)
    inside = mu != 0
    torch.testing.assert_close(values[:, 1, :, :rows][inside], (logvar / 2).exp()[inside])
    assert (values[:, :, :, rows:] == 0).all()
    assert (values[1, :, :, 3:] == 0).all()

    flow = build_flow(shape, 0, 4 * VAE.stride + images.shape[2], width=8, blocks=1)
    prior = Prior(flow.requires_grad_(False), heights, torch.zeros(2, dtype=torch.long), [])
    numbers = torch.arange(3)
    keys = sample_keys(0, 0 * numbers, numbers, "prior")
    pages, made = draw_pages(model, prior, keys, None, width=WIDTH, max_height=images.shape[2])
    assert pages.shape == (3, 1, 16 * -(-int(made.max()) // 16), WIDTH)
    assert set(made.tolist()) <= {64, 37}


@pytest.mark.parametrize("is_main", [True, False])
def test_the_other_ranks_follow_the_main_process(monkeypatch, is_main):
    """They waited in one collective, which ended the run if the fit was longer than the timeout."""
    engine, calls = FakeEngine(rank=0 if is_main else 1, world_size=2), []
    monkeypatch.setattr(engine, "follow_main", lambda: calls.append("follow"))
    monkeypatch.setattr(engine, "tell_progress", calls.append)
    latents = two_clusters() if is_main else None
    monkeypatch.setattr(prior_fit, "encode_latents", lambda *_: latents)
    model = SimpleNamespace(latent_shape=lambda size: (2,), stride=16, size=(128, WIDTH))
    pages = SimpleNamespace(thinned=lambda count: None)
    config = dataclasses.replace(CONFIG, steps=2, detail=False)
    prior = prior_fit.fit_prior(model, None, pages, config, engine, max_height=100, seed=0)
    assert (prior is None) == (not is_main)
    assert calls == (["fitting the prior, step 0 of 2", None] if is_main else ["follow"])
