"""The flow of maps: independence of padding and batch, conditions, and a known distribution."""

import pytest
import torch

from shards.randomness import sample_keys
from tests.support.engines import FakeEngine
from vaetrain.prior.config import PriorConfig
from vaetrain.prior.flow import Flow
from vaetrain.prior.map_flow import MapFlow
from vaetrain.prior.prior import Prior, build_flow, load_prior
from vaetrain.training.prior_fit import Latents, fit_flow

SHAPE = (3, 5, 2)  # of pages of up to 80 rows
HEIGHTS = torch.tensor([80, 16, 33, 1])
NO_LABEL = torch.full((4,), 2)


def rows_of(heights: torch.Tensor) -> torch.Tensor:
    """Return the mask of the rows that belong to pages: (B, 1, 5, 1)."""
    return (torch.arange(5) < (heights[:, None] + 15) // 16)[:, None, :, None]


@pytest.fixture
def flow() -> MapFlow:
    """A flow with random weights everywhere, so that every input has an effect."""
    torch.manual_seed(0)
    flow = MapFlow(SHAPE, 2, max_height=80, width=16, blocks=2)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return flow.requires_grad_(False)


def noise(count: int = 4) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_flow_is_built_for_the_latents_shape():
    assert type(build_flow((4,), 0, 80, 16, 1)) is Flow
    assert type(build_flow(SHAPE, 0, 80, 16, 1)) is MapFlow


def test_a_page_depends_neither_on_the_batch_nor_on_its_padding(flow):
    together = flow.decode_noise(noise(), HEIGHTS, NO_LABEL)
    for page, height in enumerate(HEIGHTS.tolist()):
        one = slice(page, page + 1)
        alone = flow.decode_noise(noise()[one], HEIGHTS[one], NO_LABEL[one])
        rows = -(-height // 16)
        assert alone.shape == (1, 3, rows, 2)
        torch.testing.assert_close(together[one, :, :rows], alone, atol=1e-5, rtol=1e-5)


def test_maps_are_zero_below_the_pages(flow):
    z = flow.decode_noise(noise(), HEIGHTS, NO_LABEL)
    assert (z.masked_select(~rows_of(HEIGHTS)) == 0).all()
    assert (z.masked_select(rows_of(HEIGHTS)) != 0).all()


def test_values_below_a_page_change_neither_velocity_nor_loss(flow):
    below = ~rows_of(HEIGHTS)
    z, other = noise(), noise() + 7.0 * below
    time = torch.full((4,), 0.3)
    assert torch.equal(flow(z, time, HEIGHTS, NO_LABEL), flow(other, time, HEIGHTS, NO_LABEL))
    torch.testing.assert_close(
        flow.loss(z, noise(), time, HEIGHTS, NO_LABEL),
        flow.loss(other, noise(), time, HEIGHTS, NO_LABEL),
    )


def test_the_loss_of_a_zero_velocity_is_the_mean_square_over_the_pages_rows():
    flow = MapFlow(SHAPE, 2, max_height=80, width=16, blocks=1)
    z = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2))
    loss = flow.loss(z, noise(), torch.rand(4), HEIGHTS, NO_LABEL)
    for page, height in enumerate(HEIGHTS.tolist()):
        rows = -(-height // 16)
        expected = (z - noise())[page, :, :rows].square().mean()
        torch.testing.assert_close(loss[page], expected)


@pytest.mark.parametrize("condition", ["time", "height", "label"])
def test_time_height_and_label_are_conditions(flow, condition):
    x, other = noise(1), {"time": 0.2, "height": 79, "label": 0}
    first = {"time": 0.7, "height": 65, "label": 1}
    changed = first | {condition: other[condition]}
    one, two = (
        flow(
            x,
            torch.tensor([each["time"]]),
            torch.tensor([each["height"]]),
            torch.tensor([each["label"]]),
        )
        for each in (first, changed)
    )
    assert not torch.allclose(one, two, atol=1e-3)


def test_rows_know_their_place(flow):
    """A map of equal rows gets another velocity in each row."""
    x = noise(1)[:, :, :1].expand(1, *SHAPE)
    velocity = flow(x, torch.tensor([0.5]), HEIGHTS[:1], NO_LABEL[:1])[0].transpose(0, 1)
    for first in range(5):
        for second in range(first):
            assert not torch.allclose(velocity[first], velocity[second], atol=1e-3)


def test_statistics_are_those_of_samples_without_padding(flow):
    valid = rows_of(HEIGHTS).expand(4, *SHAPE)
    mu = torch.where(valid, 2.0 + noise(), torch.tensor(99.0))
    deviation = torch.where(valid, torch.tensor(0.5), torch.tensor(99.0))
    flow.set_statistics(mu, deviation, HEIGHTS)
    for channel in range(3):
        values = mu[:, channel][valid[:, channel]]
        torch.testing.assert_close(flow.mean[channel], values.mean())
        expected = (values.var(correction=0) + 0.25).sqrt()
        torch.testing.assert_close(flow.std[channel], expected)


def test_a_fitted_flow_makes_maps_of_the_kinds_that_it_has_seen():
    """Two kinds of maps: a bright row at the top, or one at the end of the page."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(256) % 2
    heights = torch.where(torch.arange(256) % 4 < 2, 40, 80)
    mu = torch.zeros(256, 1, 5, 2)
    mu[kind == 0, :, 0] = 4.0
    last = (heights + 15) // 16 - 1
    mu[kind == 1, :, last[kind == 1]] = 4.0
    mu += 0.1 * torch.randn(mu.shape, generator=generator)
    latents = Latents(mu * rows_of(heights), torch.full_like(mu, 0.1), heights, kind, ["a", "b"])
    torch.manual_seed(0)
    config = PriorConfig(kind="flow", width=32, blocks=2, steps=400, epochs=1000, batch=64, lr=3e-3)
    flow = fit_flow(build_flow((1, 5, 2), 2, 80, 32, 2), latents, config, FakeEngine())
    start = torch.randn(64, 1, 5, 2, generator=generator)
    heights = torch.where(torch.arange(64) % 2 == 0, 40, 80)
    for label in (0, 1):
        z = flow.decode_noise(start, heights, torch.full((64,), label)).mean(dim=(1, 3))
        bright = 0 if label == 0 else (heights + 15) // 16 - 1
        expected = 4.0 * torch.nn.functional.one_hot(torch.as_tensor(bright).expand(64), 5)
        assert (z - expected).abs().mean() < 0.5  # an unfitted flow: 1.8


def test_a_saved_prior_gives_the_same_samples(flow):
    prior = Prior(flow, HEIGHTS, NO_LABEL, ["login", "home"])
    again = load_prior(prior.description(), prior.tensors())
    numbers = torch.arange(3)
    keys = sample_keys(0, torch.zeros_like(numbers), numbers, "prior")
    for one, other in zip(prior.sample(keys), again.sample(keys), strict=True):
        assert torch.equal(one, other)
    z, heights = prior.sample(keys, torch.tensor([20, 64, 3]))
    assert z.shape == (3, 3, 4, 2)
    assert heights.tolist() == [20, 64, 3]
