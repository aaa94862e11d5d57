"""Samples of a prior: heights, labels, and independence of the batch."""

import pytest
import torch

from shards.randomness import sample_keys
from vaetrain.prior.detail import Detail
from vaetrain.prior.flow import Flow
from vaetrain.prior.prior import Prior, load_prior
from vaetrain.settings import ConfigError


@pytest.fixture
def prior() -> Prior:
    torch.manual_seed(0)
    flow = Flow((4,), 2, max_height=100, width=16, blocks=1)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    heights = torch.tensor([10, 20, 30, 40, 50])
    return Prior(flow, heights, torch.tensor([0, 0, 1, 1, 2]), ["login", "home"])


def keys(count: int) -> torch.Tensor:
    return sample_keys(0, torch.zeros(count, dtype=torch.long), torch.arange(count), "prior")


def test_heights_are_those_of_training_pages(prior):
    _, heights = prior.sample(keys(400))
    counts = [(heights == height).sum().item() for height in (10, 20, 30, 40, 50)]
    assert sum(counts) == 400
    assert min(counts) > 40


def test_heights_of_a_label_are_those_of_its_pages(prior):
    _, heights = prior.sample(keys(100), label="home")
    assert set(heights.tolist()) == {30, 40}


def test_a_label_changes_the_latents(prior):
    heights = torch.full((8,), 30)
    free, _ = prior.sample(keys(8), heights)
    home, _ = prior.sample(keys(8), heights, "home")
    login, _ = prior.sample(keys(8), heights, "login")
    assert not torch.allclose(home, login, atol=1e-3)
    assert not torch.allclose(home, free, atol=1e-3)


def test_given_heights_are_kept(prior):
    wanted = torch.tensor([7, 99, 1])
    _, heights = prior.sample(keys(3), wanted)
    assert torch.equal(heights, wanted)


def test_a_sample_depends_on_its_key_alone(prior):
    z, heights = prior.sample(keys(6))
    alone, height = prior.sample(keys(6)[4:5])
    torch.testing.assert_close(z[4:5], alone, atol=1e-5, rtol=1e-5)
    assert heights[4] == height[0]


def test_an_unknown_label_is_refused_with_the_known_ones(prior):
    with pytest.raises(ConfigError, match=r"'shop': unknown.*login, home"):
        prior.sample(keys(2), label="shop")


def test_a_saved_prior_has_its_detail(prior):
    assert load_prior(prior.description(), prior.tensors()).detail is None
    prior.detail = Detail(16)
    again = load_prior(prior.description(), prior.tensors()).detail
    assert again.width == 16
    for name, value in prior.detail.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    older = {name: value for name, value in prior.description().items() if name != "detail_width"}
    assert load_prior(older, prior.tensors()).detail is None


def test_a_saved_prior_gives_the_same_samples(prior):
    again = load_prior(prior.description(), prior.tensors())
    for label in (None, "login"):
        for one, other in zip(
            prior.sample(keys(5), label=label), again.sample(keys(5), label=label), strict=True
        ):
            assert torch.equal(one, other)
