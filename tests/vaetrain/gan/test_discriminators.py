"""Discriminators: what they see of a page, and what their spectral norm is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import Discriminator, build_discriminator

HEIGHTS = torch.tensor([1, 21, 64, 40])
KINDS = ("light", "patch")


def judge(kind: str) -> Discriminator:
    torch.manual_seed(0)
    return build_discriminator(GanConfig(discriminator=kind, channels=4))


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_in_a_batch_is_judged_as_if_alone(kind):
    discriminator = judge(kind)
    images = noise(4, 1, 64, 32)  # with noise below the pages too
    batched = discriminator(images, HEIGHTS)
    for i, height in enumerate(HEIGHTS.tolist()):
        padded = -(-height // 16) * 16
        page = images[i : i + 1, :, :padded].clone()
        page[:, :, height:] = 0
        alone = discriminator(page, HEIGHTS[i : i + 1])
        count = alone.logits.shape[1]
        torch.testing.assert_close(batched.logits[i, :count], alone.logits[0])
        torch.testing.assert_close(batched.weights[i, :count], alone.weights[0])
        assert not batched.weights[i, count:].any()
        for (ours, _), (theirs, rows) in zip(batched.features, alone.features, strict=True):
            torch.testing.assert_close(ours[i, :, : theirs.shape[2]], theirs[0])
            assert not ours[i, :, int(rows.count) :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_scaled_before_they_are_seen(kind):
    torch.manual_seed(0)
    scaled = build_discriminator(GanConfig(discriminator=kind, channels=4, input_scale=40))
    images = noise(4, 1, 64, 32)
    found = scaled(images, HEIGHTS).logits
    torch.testing.assert_close(found, judge(kind)(40 * images, HEIGHTS).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_a_mean_over_the_page(kind):
    verdict = judge(kind)(noise(4, 1, 64, 32), HEIGHTS)
    torch.testing.assert_close(verdict.weights.sum(dim=1), torch.ones(4))
    for row in verdict.weights:
        assert row[row > 0].unique().numel() == 1
    if kind == "patch":
        assert [int(row.count_nonzero()) for row in verdict.weights] == [4, 12, 32, 20]


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_below_a_page_gets_no_gradient(kind):
    images = noise(4, 1, 64, 32).requires_grad_()
    verdict = judge(kind)(images, HEIGHTS)
    verdict.page_mean(verdict.logits).sum().backward()
    for gradient, height in zip(images.grad, HEIGHTS.tolist(), strict=True):
        assert gradient[:, :height].any()
        assert not gradient[:, height:].any()


def test_a_patch_is_54_pixels_wide():
    images = noise(1, 1, 128, 128).requires_grad_()
    verdict = judge("patch")(images, torch.tensor([128]))
    verdict.logits.view(16, 16)[8, 8].backward()
    seen = images.grad[0, 0].nonzero()
    assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [54, 54]


def test_only_a_renewal_moves_the_power_iteration():
    discriminator = judge("patch")
    before = {name: value.clone() for name, value in discriminator.named_buffers()}
    assert len(before) == 10
    first = discriminator(noise(4, 1, 64, 32), HEIGHTS).logits
    torch.testing.assert_close(
        discriminator(noise(4, 1, 64, 32), HEIGHTS).logits, first, atol=0, rtol=0
    )
    assert all(torch.equal(value, before[name]) for name, value in discriminator.named_buffers())
    discriminator.renew_spectral_norms()
    after = dict(discriminator.convs.named_buffers(prefix="convs"))
    assert not any(torch.equal(value, before[name]) for name, value in after.items())


def test_renewals_reach_a_largest_singular_value_of_one():
    discriminator = judge("patch")
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter += 0.1 * noise(*parameter.shape)
    for _ in range(100):
        discriminator.renew_spectral_norms()
    for layer in (*discriminator.convs, discriminator.logit):
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=1e-4)


def test_one_renewal_is_one_power_iteration():
    discriminator = judge("patch")
    layer = discriminator.convs[1]
    matrix = layer.parametrizations.weight.original.detach().flatten(1)
    _, v = (value.clone() for value in layer.buffers())
    discriminator.renew_spectral_norms()
    u = torch.nn.functional.normalize(matrix @ v, dim=0)
    v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
    for ours, theirs in zip(layer.buffers(), (u, v), strict=True):
        torch.testing.assert_close(ours, theirs)
