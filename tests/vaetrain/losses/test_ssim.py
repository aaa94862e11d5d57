"""SSIM and MS-SSIM against pytorch-msssim, and their values at special pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytorch_msssim
import torch
from torch import Tensor

from tests.vaetrain.losses.images import flat_and_noisy, full_heights
from vaetrain.losses import ssim


@pytest.mark.parametrize(("height", "width"), [(11, 11), (40, 33), (64, 48)])
def test_ssim_equals_pytorch_msssim(height: int, width: int):
    prediction, target = flat_and_noisy(3, height, width)
    result = ssim.ssim(prediction.double(), target.double(), full_heights(target))
    expected = pytorch_msssim.ssim(
        prediction.double(), target.double(), data_range=1.0, size_average=False
    )
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)
    in_float32 = ssim.ssim(prediction, target, full_heights(target))
    torch.testing.assert_close(in_float32.double(), result, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(161, 161), (176, 192), (205, 167)])
def test_ms_ssim_equals_pytorch_msssim(height: int, width: int):
    prediction, target = flat_and_noisy(2, height, width)
    result = ssim.ms_ssim(prediction, target, full_heights(target))
    expected = pytorch_msssim.ms_ssim(prediction, target, data_range=1.0, size_average=False)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_the_shorter_side_determines_the_levels_of_ms_ssim():
    # Width 32: 32 and 16 pixels hold a window, 8 do not. The first two weights, scaled to sum 1.
    prediction, target = (image.double() for image in flat_and_noisy(2, 64, 32))
    ssim_terms = pytorch_msssim.ssim.__globals__["_ssim"]
    window = ssim._gaussian(torch.ones((), dtype=torch.float64)).view(1, 1, 1, -1)
    _, contrast = ssim_terms(prediction, target, 1.0, window)
    halved = [torch.nn.functional.avg_pool2d(image, 2) for image in (prediction, target)]
    similarity, _ = ssim_terms(*halved, 1.0, window)
    first, second = (w / sum(ssim.MS_SSIM_WEIGHTS[:2]) for w in ssim.MS_SSIM_WEIGHTS[:2])
    expected = (contrast**first * similarity**second).squeeze(1)
    result = ssim.ms_ssim(prediction, target, full_heights(target))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [ssim.ssim, ssim.ms_ssim])
def test_pages_without_a_window_score_one_and_have_no_gradient(loss: Callable[..., Tensor]):
    prediction, target = flat_and_noisy(2, 64, 32)
    prediction.requires_grad_()
    result = loss(prediction, target, torch.tensor([10, 64]))
    result.sum().backward()
    assert result[0] == 1
    assert result[1] < 1
    assert not prediction.grad[0].any()
    assert loss(prediction[:, :, :8], target[:, :, :8], torch.tensor([8, 8])).tolist() == [1, 1]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_similarity_of_equal_flat_pages_is_one(level: float):
    flat = torch.full((1, 1, 64, 48), level)
    for loss in (ssim.ssim, ssim.ms_ssim):
        torch.testing.assert_close(loss(flat, flat, full_heights(flat)), torch.ones(1))


def test_ms_ssim_of_anti_correlated_patches_is_zero_with_a_finite_gradient():
    checks = (torch.arange(64)[:, None] // 4 + torch.arange(48) // 4) % 2
    target = checks.float().expand(1, 1, -1, -1)
    prediction = (1 - target).requires_grad_()
    result = ssim.ms_ssim(prediction, target, full_heights(target))
    result.sum().backward()
    assert result.item() == 0
    assert torch.isfinite(prediction.grad).all()
