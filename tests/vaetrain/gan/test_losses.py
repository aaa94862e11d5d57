"""GAN losses, regularizers and feature matching against formulas written out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vaetrain.gan import losses
from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import Discriminator, DiscriminatorOutput, build_discriminator
from vaetrain.gan.registry import DISCRIMINATORS, LOSSES
from vaetrain.gan.regularizers import RegularizerInput, lecam, r1

HEIGHTS = torch.tensor([9, 16, 3])


def page_output(*logits: float) -> DiscriminatorOutput:
    """Return the output for one page with these logits."""
    values = torch.tensor([logits], dtype=torch.float64)
    return DiscriminatorOutput(values, torch.full_like(values, 1 / len(logits)), [])


def a_discriminator(kind: str, channels: int = 3) -> Discriminator:
    torch.manual_seed(0)
    return build_discriminator(GanConfig(discriminator=kind, channels=channels)).double()


def noise(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64)


def r1_penalty(images: Tensor, real: DiscriminatorOutput) -> Tensor:
    """R1 uses the original pages only."""
    unused = torch.zeros(())
    return r1(RegularizerInput(images, real, real, unused, unused))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


REAL, FAKE = (0.3, 2.5, -1.0), (-2.0, 0.4, -0.1)
EXPECTED = {
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


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_match_formulas(kind):
    loss, real, fake = LOSSES[kind].load(), page_output(*REAL), page_output(*FAKE)
    found = (
        losses.discriminator_loss(loss, real, fake).item(),
        losses.generator_loss(loss, fake).item(),
        losses.accuracy(loss, real, fake).item(),
    )
    assert found == pytest.approx(EXPECTED[kind], rel=1e-6)


def test_nonsaturating_loss_is_cross_entropy_and_finite_for_large_logits():
    real, fake = page_output(80.0, -90.0), page_output(100.0, -200.0)
    expected = F.binary_cross_entropy_with_logits(real.logits, torch.ones_like(real.logits))
    expected += F.binary_cross_entropy_with_logits(fake.logits, torch.zeros_like(fake.logits))
    found = losses.discriminator_loss(losses.NONSATURATING, real, fake)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.generator_loss(losses.NONSATURATING, fake).item() == pytest.approx(100, rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_generator_loss_raises_logits(kind):
    logits = torch.tensor([[0.2, -0.4]], dtype=torch.float64, requires_grad=True)
    fake = DiscriminatorOutput(logits, torch.full((1, 2), 0.5), [])
    loss = losses.generator_loss(LOSSES[kind].load(), fake)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (gradient < 0).all()


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_r1_equals_finite_differences(kind):
    discriminator = a_discriminator(kind)
    images = noise().requires_grad_()
    found = r1_penalty(images, discriminator(images, HEIGHTS))
    step, page, expected = 1e-5, 0, 0.0
    for place in range(HEIGHTS[page] * 16):
        moved = images.detach()[[page, page]].clone()
        moved[0].view(-1)[place] += step
        moved[1].view(-1)[place] -= step
        output = discriminator(moved, HEIGHTS[[page, page]])
        high, low = output.page_mean(output.logits).tolist()
        expected += 0.5 * ((high - low) / (2 * step)) ** 2
    assert found[page].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_gradient_of_r1_equals_finite_differences(kind):
    discriminator = a_discriminator(kind)
    weight = next(p for p in discriminator.parameters() if p.dim() == 4)

    def penalty() -> Tensor:
        images = noise().requires_grad_()
        return r1_penalty(images, discriminator(images, HEIGHTS)).sum()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    values = []
    for step in (1e-5, -2e-5):
        weight.data += step * direction
        values.append(penalty().item())
    expected = (values[0] - values[1]) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5)


def test_lecam_matches_its_formula():
    real, fake = page_output(1.0, 2.0), page_output(-1.0, 0.0)
    means = torch.tensor(0.5), torch.tensor(-0.5)
    found = lecam(RegularizerInput(torch.empty(0), real, fake, *means))
    expected = (1.5**2 + 2.5**2) / 2 + (1.5**2 + 0.5**2) / 2
    assert found.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_feature_distance_ignores_the_padding(kind):
    discriminator = a_discriminator(kind)
    real, fake = discriminator(noise(1), HEIGHTS), discriminator(noise(2), HEIGHTS)
    found = losses.feature_distance(real, fake)
    for page, height in enumerate(HEIGHTS.tolist()):
        means, stride = [], 1
        for (a, _), (b, _) in zip(real.features, fake.features, strict=True):
            stride = 16 // a.shape[2]
            rows = -(-height // stride)
            means.append((a - b)[page, :, :rows].square().mean().item())
        assert found[page].item() == pytest.approx(sum(means) / len(means), rel=1e-6)


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_losses_of_a_page_do_not_depend_on_its_batch(kind):
    discriminator = a_discriminator(kind)
    images, others = noise(1).requires_grad_(), noise(2)
    gan_losses = [entry.load() for entry in LOSSES.values()]

    def terms(pages: slice) -> Tensor:
        real = discriminator(images[pages], HEIGHTS[pages])
        fake = discriminator(others[pages], HEIGHTS[pages])
        means = torch.tensor(0.2), torch.tensor(-0.1)
        return torch.stack(
            [
                *(losses.discriminator_loss(loss, real, fake) for loss in gan_losses),
                *(losses.generator_loss(loss, fake) for loss in gan_losses),
                losses.accuracy(losses.HINGE, real, fake),
                r1_penalty(images, real)[pages],
                lecam(RegularizerInput(images, real, fake, *means)),
                losses.feature_distance(real, fake),
            ]
        ).detach()

    whole = terms(slice(0, 3))
    for page in range(3):
        torch.testing.assert_close(terms(slice(page, page + 1))[:, 0], whole[:, page])
