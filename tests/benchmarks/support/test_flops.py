"""FLOPs are those of a hand count."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.support import flops


def test_a_convolution_stacks_are_those_of_a_hand_count():
    """2 x multiplications; backward takes as many for the weights, and again for the input."""
    pages, rows, columns = 3, 16, 8

    def work() -> None:
        stack = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
            nn.Conv2d(8, 2, 1, bias=False),
        )
        stack(torch.ones(pages, 1, rows, columns)).sum().backward()

    places = pages * rows * columns
    first = 2 * places * 1 * 4 * 9
    second = 2 * (places // 4) * 4 * 8 * 9
    third = 2 * (places // 4) * 8 * 2
    # The first needs no gradient of its input.
    assert flops.count(work) == 2 * first + 3 * second + 3 * third
