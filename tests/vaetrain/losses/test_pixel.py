"""Pixel losses against their formulas in float64."""

import numpy as np
import pytest
import torch

from tests.vaetrain.losses.images import flat_and_noisy, full_heights
from vaetrain.losses import pixel


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (pixel.l1, lambda p, t: np.abs(p - t)),
        (pixel.mse, lambda p, t: (p - t) ** 2),
        (pixel.charbonnier, lambda p, t: np.sqrt((p - t) ** 2 + 1e-6)),
        (pixel.bce_with_logits, lambda p, t: np.log1p(np.exp(p)) - t * p),
    ],
)
def test_losses_equal_their_formulas(loss, formula):
    prediction, target = flat_and_noisy(3, 24, 16)
    expected = formula(prediction.double().numpy(), target.double().numpy()).mean((1, 2, 3))
    losses = loss(prediction, target, full_heights(target)).numpy()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def nll_by_hand(logits: np.ndarray, page: np.ndarray) -> np.ndarray:
    """Compute the likelihood pixel by pixel, in float64."""
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    result = np.zeros(page.shape)
    for batch, _, y, x in np.ndindex(page.shape):
        depth = min(40 * page[batch, 0, y, x], logits.shape[1] - 1)
        level, share = int(depth), depth % 1
        for k, weight in ((level, 1 - share), (level + 1, share)):
            if weight:
                result[batch, 0, y, x] -= weight * np.log(probabilities[batch, k, y, x])
    return result


def test_the_likelihood_of_levels_equals_its_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 8, 4, generator=generator)
    page = torch.rand(2, 1, 8, 4, generator=generator) * 7 / 40
    page[0] = (page[0] * 40).round() / 40  # one page is not antialiased; some pixels are too deep
    assert (page > 5 / 40).any()
    heights = torch.tensor([8, 5])
    expected = nll_by_hand(logits.double().numpy(), page.double().numpy())
    expected = [expected[0].mean(), expected[1, :, :5].mean()]
    np.testing.assert_allclose(pixel.levels_nll(logits, page, heights), expected, rtol=1e-4)


def test_an_antialiased_pixel_has_the_expected_likelihood_of_its_rounding():
    logits = torch.randn(1, 6, 1, 1, generator=torch.Generator().manual_seed(1))
    between, lower, upper = (
        pixel.levels_nll(logits, torch.full((1, 1, 1, 1), depth / 40), torch.tensor([1]))
        for depth in (2.25, 2.0, 3.0)
    )
    torch.testing.assert_close(between, 0.75 * lower + 0.25 * upper)


def test_the_likelihood_is_best_at_the_shares_of_the_levels():
    logits = torch.tensor([-9.0, -9, np.log(0.75), np.log(0.25), -9]).view(1, 5, 1, 1)
    logits = logits.float().requires_grad_()
    page = torch.full((1, 1, 1, 1), 2.25 / 40)
    pixel.levels_nll(logits, page, torch.tensor([1])).backward()
    assert logits.grad.abs().max() < 1e-3


def test_the_likelihood_ignores_padding():
    logits = torch.randn(1, 6, 8, 4).requires_grad_()
    page = torch.rand(1, 1, 8, 4) / 10
    short = pixel.levels_nll(logits, page, torch.tensor([5]))
    torch.testing.assert_close(
        short, pixel.levels_nll(logits[:, :, :5], page[:, :, :5], torch.tensor([5]))
    )
    short.sum().backward()
    assert (logits.grad[:, :, 5:] == 0).all()
