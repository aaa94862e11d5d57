"""Discriminators: masking, receptive field and spectral norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaetrain.gan.config import GanConfig
from vaetrain.gan.discriminators import Discriminator, build_discriminator
from vaetrain.gan.registry import DISCRIMINATORS

HEIGHTS = torch.tensor([1, 21, 64, 40])
KINDS = tuple(DISCRIMINATORS)


def a_discriminator(kind: str) -> Discriminator:
    torch.manual_seed(0)
    return build_discriminator(GanConfig(discriminator=kind, channels=4))


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_a_page_do_not_depend_on_its_batch(kind):
    discriminator = a_discriminator(kind)
    images = noise(4, 1, 64, 32)  # noise in the padding too
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
        for (in_batch, _), (single, rows) in zip(batched.features, alone.features, strict=True):
            torch.testing.assert_close(in_batch[i, :, : single.shape[2]], single[0])
            assert not in_batch[i, :, int(rows.count) :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_input_scale_multiplies_the_images(kind):
    torch.manual_seed(0)
    scaled = build_discriminator(GanConfig(discriminator=kind, channels=4, input_scale=40))
    images = noise(4, 1, 64, 32)
    found = scaled(images, HEIGHTS).logits
    torch.testing.assert_close(found, a_discriminator(kind)(40 * images, HEIGHTS).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_equal_on_the_page_and_sum_to_one(kind):
    output = a_discriminator(kind)(noise(4, 1, 64, 32), HEIGHTS)
    torch.testing.assert_close(output.weights.sum(dim=1), torch.ones(4))
    for row in output.weights:
        assert row[row > 0].unique().numel() == 1
    if kind == "patch":
        assert [int(row.count_nonzero()) for row in output.weights] == [4, 12, 32, 20]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_gets_no_gradient(kind):
    images = noise(4, 1, 64, 32).requires_grad_()
    output = a_discriminator(kind)(images, HEIGHTS)
    output.page_mean(output.logits).sum().backward()
    for gradient, height in zip(images.grad, HEIGHTS.tolist(), strict=True):
        assert gradient[:, :height].any()
        assert not gradient[:, height:].any()


def test_receptive_field_is_54_pixels():
    images = noise(1, 1, 128, 128).requires_grad_()
    output = a_discriminator("patch")(images, torch.tensor([128]))
    output.logits.view(16, 16)[8, 8].backward()
    field = images.grad[0, 0].nonzero()
    assert (field.amax(dim=0) - field.amin(dim=0) + 1).tolist() == [54, 54]


def test_only_renewal_changes_the_power_iteration():
    discriminator = a_discriminator("patch")
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


def test_power_iterations_converge_to_singular_value_one():
    discriminator = a_discriminator("patch")
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter += 0.1 * noise(*parameter.shape)
    for _ in range(100):
        discriminator.renew_spectral_norms()
    for layer in (*discriminator.convs, discriminator.logit):
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=1e-4)


def test_one_renewal_is_one_power_iteration():
    discriminator = a_discriminator("patch")
    layer = discriminator.convs[1]
    matrix = layer.parametrizations.weight.original.detach().flatten(1)
    _, v = (value.clone() for value in layer.buffers())
    discriminator.renew_spectral_norms()
    u = torch.nn.functional.normalize(matrix @ v, dim=0)
    v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
    for found, expected in zip(layer.buffers(), (u, v), strict=True):
        torch.testing.assert_close(found, expected)
