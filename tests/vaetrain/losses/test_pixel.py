"""The losses against independent references, and masked against the cropped page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import pytorch_msssim
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from vaetrain.losses import pixel, ssim
from vaetrain.model import gaussian

IMAGE_LOSSES = [
    pixel.l1,
    pixel.mse,
    pixel.charbonnier,
    pixel.bce_with_logits,
    pixel.edges,
    ssim.ssim,
    ssim.ms_ssim,
]


def pages(batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A flat-patched target, as wireframes are, and a noisy reconstruction of it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, -(-height // 8), -(-width // 8), generator=generator)
    target = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :height, :width] * 0.5
    noise = torch.randn(target.shape, generator=generator)
    return target + 0.1 * noise, target


def full(images: Tensor) -> Tensor:
    return torch.full((len(images),), images.shape[2])


def test_pixel_losses_equal_float64_formulas():
    prediction, target = pages(3, 24, 16)
    p, t = prediction.double().numpy(), target.double().numpy()
    d = p - t
    references = {
        pixel.l1: np.abs(d).mean((1, 2, 3)),
        pixel.mse: (d**2).mean((1, 2, 3)),
        pixel.charbonnier: np.sqrt(d**2 + 1e-6).mean((1, 2, 3)),
        pixel.bce_with_logits: (np.log1p(np.exp(p)) - t * p).mean((1, 2, 3)),
        pixel.edges: np.abs(np.diff(d, axis=3)).mean((1, 2, 3))
        + np.abs(np.diff(d, axis=2)).mean((1, 2, 3)),
    }
    for loss, expected in references.items():
        found = loss(prediction, target, full(target)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (40, 33), (64, 48)])
def test_ssim_equals_pytorch_msssim(height: int, width: int):
    prediction, target = pages(3, height, width)
    found = ssim.ssim(prediction.double(), target.double(), full(target))
    expected = pytorch_msssim.ssim(
        prediction.double(), target.double(), data_range=1.0, size_average=False
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    single = ssim.ssim(prediction, target, full(target))
    torch.testing.assert_close(single.double(), found, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(161, 161), (176, 192), (205, 167)])
def test_ms_ssim_equals_pytorch_msssim(height: int, width: int):
    prediction, target = pages(2, height, width)
    found = ssim.ms_ssim(prediction, target, full(target))
    expected = pytorch_msssim.ms_ssim(prediction, target, data_range=1.0, size_average=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_ms_ssim_picks_its_levels_by_the_shorter_side():
    # 32 wide: 32 and 16 hold a window, 8 does not. The first two weights, scaled to sum 1.
    prediction, target = (image.double() for image in pages(2, 64, 32))
    fine = pytorch_msssim.ssim.__globals__["_ssim"]
    window = torch.tensor(ssim._gaussian(), dtype=torch.float64).view(1, 1, 1, -1)
    _, contrast = fine(prediction, target, 1.0, window)
    halved = [torch.nn.functional.avg_pool2d(image, 2) for image in (prediction, target)]
    similarity, _ = fine(*halved, 1.0, window)
    first, second = (w / sum(ssim.MS_SSIM_WEIGHTS[:2]) for w in ssim.MS_SSIM_WEIGHTS[:2])
    expected = (contrast**first * similarity**second).squeeze(1)
    found = ssim.ms_ssim(prediction, target, full(target))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_masked_equals_the_cropped_page(loss: Callable[..., Tensor]):
    heights = torch.tensor([192, 191, 37, 12, 1])
    prediction, target = pages(5, 192, 48)  # what lies below the pages is junk, not zero
    found = loss(prediction, target, heights)
    for i, height in enumerate(heights.tolist()):
        page = prediction[i : i + 1, :, :height], target[i : i + 1, :, :height]
        alone = loss(*page, heights[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_no_gradient_reaches_below_the_page(loss: Callable[..., Tensor]):
    prediction, target = pages(2, 64, 32)
    prediction.requires_grad_()
    loss(prediction, target, torch.tensor([40, 21])).sum().backward()
    assert prediction.grad[0, :, :40].any()
    assert not prediction.grad[0, :, 40:].any()
    assert not prediction.grad[1, :, 21:].any()


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_gradients_equal_finite_differences(loss: Callable[..., Tensor]):
    prediction, target = (image.double() for image in pages(2, 26, 22))
    prediction.requires_grad_()
    heights = torch.tensor([26, 23])
    assert torch.autograd.gradcheck(
        lambda images: loss(images, target, heights), prediction, atol=1e-6, fast_mode=True
    )


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_half_precision_inputs_are_computed_in_float32(loss: Callable[..., Tensor]):
    prediction, target = pages(2, 48, 32)
    prediction = prediction.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(prediction, target, full(target))
    assert found.dtype == torch.float32
    expected = loss(prediction.float(), target, full(target))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [ssim.ssim, ssim.ms_ssim])
def test_pages_without_a_window_score_one_and_pull_nowhere(loss: Callable[..., Tensor]):
    prediction, target = pages(2, 64, 32)
    prediction.requires_grad_()
    found = loss(prediction, target, torch.tensor([10, 64]))
    found.sum().backward()
    assert found[0] == 1
    assert found[1] < 1
    assert not prediction.grad[0].any()
    assert loss(prediction[:, :, :8], target[:, :, :8], torch.tensor([8, 8])).tolist() == [1, 1]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_similarity_of_equal_flat_pages_is_one(level: float):
    flat = torch.full((1, 1, 64, 48), level)
    for loss in (ssim.ssim, ssim.ms_ssim):
        torch.testing.assert_close(loss(flat, flat, full(flat)), torch.ones(1))


def test_ms_ssim_is_finite_on_anti_correlated_patches():
    checks = (torch.arange(64)[:, None] // 4 + torch.arange(48) // 4) % 2
    target = checks.float().expand(1, 1, -1, -1)
    prediction = (1 - target).requires_grad_()
    found = ssim.ms_ssim(prediction, target, full(target))
    found.sum().backward()
    assert found.item() == 0
    assert torch.isfinite(prediction.grad).all()


def test_kl_equals_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    found = gaussian.gaussian_kl(mu, logvar)
    posterior = Normal(mu, (0.5 * logvar).exp())
    expected = kl_divergence(posterior, Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(found, expected)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    whole = kl_divergence(Independent(posterior, 1), prior)
    torch.testing.assert_close(found.sum(dim=1), whole)


def test_kl_is_zero_at_the_prior_and_never_negative_near_it():
    assert not gaussian.gaussian_kl(torch.zeros(3, 4), torch.zeros(3, 4)).any()
    logvar = torch.linspace(-1e-4, 1e-4, 101)
    assert (gaussian.gaussian_kl(torch.zeros(101), logvar) >= -1e-10).all()
