"""The terms of the game against formulas of their own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.gan import losses
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import Discriminator, DiscriminatorOutput, build_discriminator

HEIGHTS = torch.tensor([9, 16, 3])


def page_output(*logits: float) -> DiscriminatorOutput:
    """One page with these logits."""
    values = torch.tensor([logits], dtype=torch.float64)
    return DiscriminatorOutput(values, torch.full_like(values, 1 / len(logits)), [])


def judge(kind: str, channels: int = 3) -> Discriminator:
    torch.manual_seed(0)
    return build_discriminator(GanConfig(discriminator=kind, channels=channels)).double()


def noise(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


REAL, FAKE = (0.3, 2.5, -1.0), (-2.0, 0.4, -0.1)
BY_HAND = {
    "hinge": (
        (0.7 + 0.0 + 2.0) / 3 + (0.0 + 1.4 + 0.9) / 3,
        -(-2.0 + 0.4 - 0.1) / 3,
        (2 / 3 + 2 / 3) / 2,
    ),
    "nonsaturating": (
        -sum(math.log(sigmoid(x)) for x in REAL) / 3
        - sum(math.log(1 - sigmoid(y)) for y in FAKE) / 3,
        -sum(math.log(sigmoid(y)) for y in FAKE) / 3,
        (2 / 3 + 2 / 3) / 2,
    ),
    "leastsquares": (
        0.5 * sum((x - 1) ** 2 for x in REAL) / 3 + 0.5 * sum(y**2 for y in FAKE) / 3,
        0.5 * sum((y - 1) ** 2 for y in FAKE) / 3,
        (1 / 3 + 3 / 3) / 2,
    ),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_losses_by_hand(kind):
    real, fake = page_output(*REAL), page_output(*FAKE)
    found = (
        losses.discriminator_loss(kind, real, fake).item(),
        losses.generator_loss(kind, fake).item(),
        losses.accuracy(kind, real, fake).item(),
    )
    assert found == pytest.approx(BY_HAND[kind], rel=1e-6)


def test_the_nonsaturating_loss_is_cross_entropy_and_finite_where_the_logits_are_large():
    real, fake = page_output(80.0, -90.0), page_output(100.0, -200.0)
    expected = F.binary_cross_entropy_with_logits(real.logits, torch.ones_like(real.logits))
    expected += F.binary_cross_entropy_with_logits(fake.logits, torch.zeros_like(fake.logits))
    found = losses.discriminator_loss("nonsaturating", real, fake)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.generator_loss("nonsaturating", fake).item() == pytest.approx(100, rel=1e-6)


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_vae_gains_where_the_discriminator_loses(kind):
    logits = torch.tensor([[0.2, -0.4]], dtype=torch.float64, requires_grad=True)
    fake = DiscriminatorOutput(logits, torch.full((1, 2), 0.5), [])
    (mine,) = torch.autograd.grad(losses.generator_loss(kind, fake).sum(), logits)
    assert (mine < 0).all()


@pytest.mark.parametrize("kind", ["light", "patch"])
def test_r1_equals_finite_differences(kind):
    discriminator = judge(kind)
    images = noise().requires_grad_()
    found = losses.r1(images, discriminator(images, HEIGHTS))
    step, page, expected = 1e-5, 0, 0.0
    for place in range(HEIGHTS[page] * 16):
        moved = images.detach()[[page, page]].clone()
        moved[0].view(-1)[place] += step
        moved[1].view(-1)[place] -= step
        verdict = discriminator(moved, HEIGHTS[[page, page]])
        high, low = verdict.page_mean(verdict.logits).tolist()
        expected += 0.5 * ((high - low) / (2 * step)) ** 2
    assert found[page].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["light", "patch"])
def test_r1_reaches_the_weights(kind):
    discriminator = judge(kind)
    weight = next(p for p in discriminator.parameters() if p.dim() == 4)

    def penalty() -> Tensor:
        images = noise().requires_grad_()
        return losses.r1(images, discriminator(images, HEIGHTS)).sum()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    values = []
    for step in (1e-5, -2e-5):
        weight.data += step * direction
        values.append(penalty().item())
    expected = (values[0] - values[1]) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5)


def test_lecam_by_hand():
    found = losses.lecam(
        page_output(1.0, 2.0), page_output(-1.0, 0.0), torch.tensor(0.5), torch.tensor(-0.5)
    )
    expected = (1.5**2 + 2.5**2) / 2 + (1.5**2 + 0.5**2) / 2
    assert found.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("kind", ["light", "patch"])
def test_features_are_compared_on_the_page_alone(kind):
    discriminator = judge(kind)
    ours, theirs = discriminator(noise(1), HEIGHTS), discriminator(noise(2), HEIGHTS)
    found = losses.feature_distance(ours, theirs)
    for page, height in enumerate(HEIGHTS.tolist()):
        means, stride = [], 1
        for (a, _), (b, _) in zip(ours.features, theirs.features, strict=True):
            stride = 16 // a.shape[2]
            rows = -(-height // stride)
            means.append((a - b)[page, :, :rows].square().mean().item())
        assert found[page].item() == pytest.approx(sum(means) / len(means), rel=1e-6)


@pytest.mark.parametrize("kind", ["light", "patch"])
def test_terms_of_a_page_do_not_depend_on_its_batch(kind):
    discriminator = judge(kind)
    images, others = noise(1).requires_grad_(), noise(2)

    def terms(pages: slice) -> Tensor:
        real = discriminator(images[pages], HEIGHTS[pages])
        fake = discriminator(others[pages], HEIGHTS[pages])
        means = torch.tensor(0.2), torch.tensor(-0.1)
        return torch.stack(
            [
                *(losses.discriminator_loss(kind, real, fake) for kind in BY_HAND),
                *(losses.generator_loss(kind, fake) for kind in BY_HAND),
                losses.accuracy("hinge", real, fake),
                losses.r1(images, real)[pages],
                losses.lecam(real, fake, *means),
                losses.feature_distance(real, fake),
            ]
        ).detach()

    whole = terms(slice(0, 3))
    for page in range(3):
        torch.testing.assert_close(terms(slice(page, page + 1))[:, 0], whole[:, page])
