"""Pixel values against kornia, torchvision and the distributions that they must have."""

import math

import kornia.augmentation
import kornia.enhance
import pytest
import torch
import torchvision.transforms.v2 as transforms
import torchvision.transforms.v2.functional as torchvision
from scipy import stats

from tests.vaetrain.augmentation.sample_batches import WIDTH, a_batch, a_picture, fixed_params, only
from vaetrain.augmentation.parameters import OpParameters, sample_parameters
from vaetrain.augmentation.pixels import (
    add_salt_and_pepper_,
    adjust_tone,
    corrupt,
    erase_,
    erased_rectangles,
    page_means,
)
from vaetrain.augmentation.policy import OpSettings, Policy

MANY = 4000


def many(name: str, magnitude: float) -> OpParameters:
    """Return the parameters of an operation for MANY pages."""
    policy = Policy({name: OpSettings(1.0, magnitude)})
    return sample_parameters(policy, torch.arange(MANY) * 7919)[name]


@pytest.mark.parametrize("u", [0.0, 0.3, 1.0])
def test_brightness_and_contrast_equal_torchvision_and_kornia(u):
    picture, heights = a_picture(), torch.tensor([48])
    factor = 1 + (2 * u - 1) * 0.4
    actual = adjust_tone(picture, {"brightness": fixed_params(0.4, [u])}, heights)
    torch.testing.assert_close(actual, torchvision.adjust_brightness(picture, factor))
    reference = kornia.enhance.adjust_brightness_accumulative(picture, factor)
    torch.testing.assert_close(actual, reference)
    for name in ("contrast", "tone"):
        actual = adjust_tone(picture, {name: fixed_params(0.4, [u])}, heights)
        for reference in (
            torchvision.adjust_contrast(picture, factor),
            kornia.enhance.adjust_contrast_with_mean_subtraction(picture, factor),
        ):
            torch.testing.assert_close(actual, reference, rtol=0, atol=1e-5)


def test_tone_does_not_depend_on_the_padding():
    """The reference gets the page without padding."""
    picture, heights = a_picture(), torch.tensor([48])
    padded = torch.nn.functional.pad(picture, (0, 0, 0, 16))
    draws = {"brightness": fixed_params(0.4, [0.9]), "contrast": fixed_params(0.4, [0.1])}
    actual = adjust_tone(padded, draws, heights)
    reference = torchvision.adjust_contrast(torchvision.adjust_brightness(picture, 1.32), 0.68)
    torch.testing.assert_close(actual[:, :, :48], reference, rtol=0, atol=1e-5)
    assert (actual[:, :, 48:] == 0).all()


def test_factors_are_distributed_as_torchvisions_color_jitter():
    torch.manual_seed(0)
    jitter = transforms.ColorJitter(brightness=0.1)
    reference = [jitter.make_params([])["brightness_factor"] for _ in range(MANY)]
    actual = 1 + many("brightness", 0.1).signed(1)[:, 0]
    assert stats.ks_2samp(actual.numpy(), reference, method="asymp").pvalue > 0.01


def test_page_mean_is_exact_for_any_order_and_padding():
    picture, heights = a_picture() * 0.01, torch.tensor([48])
    mean = page_means(picture, heights)
    torch.testing.assert_close(mean, picture.mean((1, 2, 3)), rtol=0, atol=1e-6)
    order = torch.randperm(picture.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = picture.flatten()[order].view_as(picture)
    assert torch.equal(page_means(shuffled, heights), mean)
    padded = torch.nn.functional.pad(picture, (0, 0, 0, 16))
    assert torch.equal(page_means(padded, heights), mean)


@pytest.mark.parametrize("u", [[0.7, 0.6, 0.3, 0.8], [1 - 2**-24] * 4, [0.0] * 4])
def test_erasing_equals_torchvision_and_kornia(u):
    picture, heights = a_picture(), torch.tensor([48])
    corners, sides = erased_rectangles(fixed_params(0.33, u), heights, WIDTH)
    (x, y), (w, h) = corners[0].tolist(), sides[0].tolist()
    assert x + w <= WIDTH
    assert y + h <= 48
    actual = erase_(picture.clone(), corners, sides)
    assert torch.equal(actual, torchvision.erase(picture, y, x, h, w, torch.zeros(1, 1, 1, 1)))
    where = {"xs": x, "ys": y, "widths": w, "heights": h, "batch_prob": 1.0, "values": 0.0}
    reference = kornia.augmentation.RandomErasing(p=1.0)(
        picture, params={name: torch.tensor([value]) for name, value in where.items()}
    )
    assert torch.equal(actual, reference)


def test_erased_rectangles_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    side = 512
    draw = transforms.RandomErasing(p=1.0, scale=(0.02, 0.33), ratio=(1 / 3.3, 3.3)).make_params
    reference = [draw([torch.zeros(1, side, side)]) for _ in range(MANY)]
    _, sides = erased_rectangles(many("erase", 0.33), torch.full((MANY,), side), side)
    w, h = sides.double().unbind(1)
    for actual, other in (
        (w * h, [p["h"] * p["w"] for p in reference]),
        ((w / h).log(), [math.log(p["w"] / p["h"]) for p in reference]),
    ):
        assert stats.ks_2samp(actual.numpy(), other, method="asymp").pvalue > 0.01


def test_erasing_changes_one_rectangle_of_the_input_only():
    inputs, targets = only("erase", 0.33)(a_batch(), seed=0)
    assert torch.equal(targets, a_batch().images())
    erased = (inputs != targets)[:, 0]
    assert erased.flatten(1).any(1).all()
    for page in range(len(erased)):
        rows, columns = erased[page].any(1).nonzero(), erased[page].any(0).nonzero()
        inside = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        assert (inputs[page, 0][inside] == 0).all()


def test_salt_and_pepper_set_their_share_of_pixels():
    bits = torch.arange(-(2**15), 2**15).view(1, 1, 256, 256).float()
    picture = torch.full((1, 1, 256, 256), 0.5)
    corrupted = add_salt_and_pepper_(picture, bits, torch.tensor([0.04]))
    assert (corrupted == 0).float().mean() == pytest.approx(0.02, abs=1e-4)
    assert (corrupted == 1).float().mean() == pytest.approx(0.02, abs=1e-4)
    assert (corrupted == 0.5).float().mean() == pytest.approx(0.96, abs=2e-4)


def test_noise_is_normal_and_uncorrelated():
    picture, heights = torch.full((1, 1, 512, 512), 0.5), torch.tensor([512])
    keys = torch.full((1, 3), 12345)
    noisy = corrupt(picture, {"noise": fixed_params(0.05, [])}, keys, heights)
    assert float(noisy.std()) == pytest.approx(0.05, rel=0.01)
    assert float(noisy.mean()) == pytest.approx(0.5, abs=5e-4)
    sigmas = ((noisy.flatten()[:20_000] - 0.5) / 0.05).numpy()
    assert stats.kstest(sigmas, "norm").pvalue > 0.01
    # Neighbouring pixels are uncorrelated.
    for shifted in (noisy.roll(1, 2), noisy.roll(1, 3)):
        both = torch.stack([noisy.flatten(), shifted.flatten()])
        assert abs(float(both.corrcoef()[0, 1])) < 0.01
