"""Draws of pages: noise of a ladder's levels, and the detail of the prior."""

import pytest
import torch

from shards.randomness import sample_keys
from tests.vaetrain.model.pages import WIDTH, build_model
from vaetrain.inference.prior_samples import (
    draw_pages,
    draw_path,
    level_noise,
    padded_size,
    path_noise,
)
from vaetrain.prior.detail import Detail
from vaetrain.prior.prior import Prior, build_flow

SIZE = (64, WIDTH)


def test_samples_have_noise_of_their_own_and_steps_of_a_path_share_it():
    model = build_model(skips="hierarchical")
    numbers = torch.arange(3)
    samples = level_noise(model, sample_keys(0, 0 * numbers, numbers, "prior"), SIZE)
    path = path_noise(model, 3, SIZE)
    assert len(samples) == len(path) == model.ladder_levels
    for level, of_path in zip(samples, path, strict=True):
        assert not torch.equal(level[0], level[1])
        assert torch.equal(of_path[0], of_path[2])
        assert float(of_path.std()) > 0.5


def test_a_model_without_a_ladder_needs_no_noise():
    assert path_noise(build_model(), 3, SIZE) == ()


@pytest.mark.parametrize("skips", ["none", "hierarchical"])
@torch.no_grad()
def test_the_detail_is_drawn_on_pages_that_are_decoded_from_the_vector_alone(skips):
    model = build_model(skips=skips).eval()
    torch.manual_seed(0)
    flow = build_flow((model.latent_dim,), 0, SIZE[0], width=8, blocks=1)
    numbers = torch.arange(3)
    keys = sample_keys(0, 0 * numbers, numbers, "prior")
    prior = Prior(flow, torch.tensor([40, 64]), torch.zeros(2, dtype=torch.long), [])
    sizes = {"width": WIDTH, "max_height": SIZE[0]}
    decoded, heights = draw_pages(model, prior, keys, None, **sizes)
    prior.detail = Detail(8)
    drawn, same = draw_pages(model, prior, keys, None, **sizes)
    assert torch.equal(heights, same)
    z, _ = prior.sample(keys)
    alone = model.decode_padded(z, heights, padded_size(model, heights, WIDTH))
    assert torch.equal(drawn, prior.detail.draw(alone, heights, keys))
    assert torch.equal(decoded, alone) == (skips == "none")
    assert not torch.equal(drawn, decoded)


@pytest.mark.parametrize("skips", ["none", "hierarchical"])
@torch.no_grad()
def test_steps_of_a_path_differ_by_their_latents_alone(skips):
    """Two equal steps are equal pages, with and without the prior's detail."""
    model = build_model(skips=skips).eval()
    torch.manual_seed(0)
    path = torch.randn(2, model.latent_dim)[torch.tensor([0, 0, 1])]
    heights = torch.full((3,), SIZE[0])
    flow = build_flow((model.latent_dim,), 0, SIZE[0], width=8, blocks=1)
    prior = Prior(flow, heights, torch.zeros(3, dtype=torch.long), [])
    decoded = draw_path(model, None, path, heights, SIZE)
    assert torch.equal(decoded, draw_path(model, prior, path, heights, SIZE))
    prior.detail = Detail(8)
    drawn = draw_path(model, prior, path, heights, SIZE)
    for pages in (decoded, drawn):
        assert torch.equal(pages[0], pages[1])
        assert not torch.equal(pages[0], pages[2])
    assert not torch.equal(drawn, decoded)
    greys = drawn * 240  # drawn pixels are sixths of a level
    torch.testing.assert_close(greys, greys.round(), atol=1e-4, rtol=0)
