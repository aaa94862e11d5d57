"""FLOPs equal a hand count, and grow with pages and rows as they should."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.support import flops
from vaetrain.model.config import ModelConfig


def test_flops_of_a_convolution_stack_equal_a_hand_count():
    """Backward takes the FLOPs of forward for the weights, and once more for the input."""
    pages, rows, columns = 3, 16, 8

    def work() -> None:
        stack = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
            nn.Conv2d(8, 2, 1, bias=False),
        )
        stack(torch.ones(pages, 1, rows, columns)).sum().backward()

    positions = pages * rows * columns
    first = 2 * positions * 1 * 4 * 9
    second = 2 * (positions // 4) * 4 * 8 * 9
    third = 2 * (positions // 4) * 8 * 2
    # The first needs no gradient of its input.
    assert flops.count(work) == 2 * first + 3 * second + 3 * third


def test_model_flops_are_proportional_to_pages_and_linear_in_rows():
    config = ModelConfig(attention="none", latent_dim=8)
    counts = {
        (pages, rows): flops.model_flops(config, 64, 256, pages, rows)
        for pages, rows in ((1, 64), (2, 64), (1, 128), (1, 192))
    }
    assert counts[2, 64] == 2 * counts[1, 64]
    # Layers over the whole grid do not grow; all others grow by the same for the same rows.
    growth = counts[1, 192] - counts[1, 128]
    assert growth == counts[1, 128] - counts[1, 64] > 0.7 * counts[1, 64]
