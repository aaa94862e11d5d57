"""Gradient difference loss."""

import numpy as np
import torch

from tests.vaetrain.losses.images import flat_and_noisy, full_heights
from vaetrain.losses.gradient_difference import gradient_difference


def test_it_equals_its_formula_in_float64():
    prediction, target = flat_and_noisy(3, 24, 16)
    difference = prediction.double().numpy() - target.double().numpy()
    along_x = np.abs(np.diff(difference, axis=3)).mean((1, 2, 3))
    along_y = np.abs(np.diff(difference, axis=2)).mean((1, 2, 3))
    losses = gradient_difference(prediction, target, full_heights(target)).numpy()
    np.testing.assert_allclose(losses, along_x + along_y, rtol=1e-5)


def test_an_edge_of_the_wrong_sign_is_penalised():
    edge = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
    heights = full_heights(edge)
    assert gradient_difference(1 - edge, edge, heights) > gradient_difference(
        torch.zeros_like(edge), edge, heights
    )
