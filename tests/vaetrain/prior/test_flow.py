"""The rectified flow against known velocities and distributions."""

import pytest
import torch

from vaetrain.prior.flow import Flow


def flow(dimensions: int = 2, labels: int = 2) -> Flow:
    torch.manual_seed(0)
    return Flow((dimensions,), labels, max_height=100, width=32, blocks=2)


def arguments(count: int, dimensions: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, dimensions, generator=generator)
    heights = torch.randint(1, 101, (count,), generator=generator)
    return noise, heights, torch.randint(0, 3, (count,), generator=generator)


def test_an_untrained_flow_returns_the_noise_in_the_units_of_the_latents():
    model = flow()
    model.mean.copy_(torch.tensor([3.0, -1.0]))
    model.std.copy_(torch.tensor([2.0, 0.5]))
    noise, heights, labels = arguments(7)
    z = model.decode_noise(noise, heights, labels)
    torch.testing.assert_close(z, noise * model.std + model.mean)


def test_the_loss_of_a_zero_velocity_is_the_squared_distance_of_noise_and_data():
    model = flow()
    noise, heights, labels = arguments(5)
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    loss = model.loss(z, noise, torch.rand(5), heights, labels)
    torch.testing.assert_close(loss, (z - noise).square().mean(dim=1))


class LinearVelocity(Flow):
    """The exact velocity to a normal distribution N(m, s^2) in every dimension.

    x_t = (1 - t) x_0 + t (m + s e) is normal, so E[x_1 - x_0 | x_t] is linear in x_t.
    """

    m, s = 1.5, 0.25

    def forward(self, x, time, heights, labels):
        t = time[:, None]
        variance = (1 - t).square() + (t * self.s).square()
        slope = (t * self.s**2 - (1 - t)) / variance
        return self.m + slope * (x - t * self.m)


def test_integration_of_the_exact_velocity_gives_the_exact_distribution():
    model = LinearVelocity((2,), 0, max_height=100, width=8, blocks=1)
    noise, heights, labels = arguments(64)
    z = model.decode_noise(noise, heights, torch.zeros_like(labels))
    torch.testing.assert_close(z, model.m + model.s * noise, atol=5e-3, rtol=0)


class LabelVelocity(Flow):
    """A constant velocity that the label alone decides: 1 for label 0, else 0."""

    def forward(self, x, time, heights, labels):
        return (labels == 0).float()[:, None].expand_as(x)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_scales_the_difference_that_a_label_makes(guidance):
    model = LabelVelocity((2,), 2, max_height=100, width=8, blocks=1)
    noise, heights, _ = arguments(4)
    z = model.decode_noise(noise, heights, torch.zeros(4, dtype=torch.long), guidance)
    torch.testing.assert_close(z, noise + guidance)


def test_a_vector_does_not_depend_on_the_others_of_its_batch():
    model = flow()
    torch.nn.init.normal_(model.leave.weight)
    noise, heights, labels = arguments(9)
    together = model.decode_noise(noise, heights, labels)
    alone = model.decode_noise(noise[3:4], heights[3:4], labels[3:4])
    torch.testing.assert_close(together[3:4], alone, atol=1e-5, rtol=1e-5)


def test_height_and_label_are_conditions():
    model = flow()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, time = torch.zeros(2, 2), torch.full((2,), 0.5)
    same = torch.tensor([50, 50])
    by_height = model(x, time, torch.tensor([10, 90]), torch.zeros(2, dtype=torch.long))
    by_label = model(x, time, same, torch.tensor([0, 1]))
    equal = model(x, time, same, torch.zeros(2, dtype=torch.long))
    assert not torch.allclose(by_height[0], by_height[1], atol=1e-3)
    assert not torch.allclose(by_label[0], by_label[1], atol=1e-3)
    assert torch.equal(equal[0], equal[1])
    assert by_height.isfinite().all()
