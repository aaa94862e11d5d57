"""Pixel losses against their formulas in float64."""

import numpy as np
import pytest

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
