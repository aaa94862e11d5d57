"""The gradient noise scale: exact on a quadratic of known noise, with correct intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from benchmarks.support.batch_size.gradient_noise import (
    GradientNorms,
    NoiseScale,
    collect,
    unbiased,
)

DIMENSIONS, GRADIENT, NOISE = 50, 0.36, 90.0  # of the quadratic: |G|^2, tr(Sigma)


class OneProcess:
    """An engine of one process, with the methods that `collect` uses."""

    world_size, device = 1, torch.device("cpu")

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values


def quadratic_gradients(batches: int, micro: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield gradients of mean(w H w / 2 + noise w) over micro batches, at fixed weights."""
    generator = torch.Generator().manual_seed(seed)
    curvature = torch.linspace(0.1, 2.0, DIMENSIONS)
    weights = (1 / curvature / DIMENSIONS**0.5 * GRADIENT**0.5).requires_grad_()
    spread = torch.linspace(1, 3, DIMENSIONS)
    spread *= (NOISE / spread.square().sum()).sqrt()
    for _ in range(batches):
        noise = spread * torch.randn(micro, DIMENSIONS, generator=generator)
        loss = (curvature * weights.square()).sum() / 2 + (noise @ weights).mean()
        yield torch.autograd.grad(loss, weights)[0]


def estimate(groups: int, per_group: int, micro: int, seed: int = 0) -> NoiseScale:
    norms = GradientNorms(micro, per_group)
    collect(quadratic_gradients(groups * per_group, micro, seed), norms, OneProcess())
    return norms.estimate()


@pytest.mark.parametrize(
    ("groups", "micro"), [pytest.param(8, 1, marks=pytest.mark.slow), (16, 4), (50, 16)]
)
def test_noise_scale_of_a_quadratic_is_within_a_tenth(groups, micro):
    scale = estimate(groups, 24_000 // groups // micro, micro)
    assert scale.gradient == pytest.approx(GRADIENT, rel=0.1)
    assert scale.noise == pytest.approx(NOISE, rel=0.05)
    assert scale.pages == pytest.approx(NOISE / GRADIENT, rel=0.1)
    assert scale.low < NOISE / GRADIENT < scale.high


def test_estimates_are_unbiased_with_very_noisy_gradients():
    """The mean over many small samples, each mostly noise, is the true value."""
    scales = [estimate(4, 2, 4, seed) for seed in range(400)]
    gradients = torch.tensor([one.gradient for one in scales], dtype=torch.float64)
    noises = torch.tensor([one.noise for one in scales], dtype=torch.float64)
    for values, truth in ((gradients, GRADIENT), (noises, NOISE)):
        assert abs(values.mean() - truth) < 3 * values.std() / len(scales) ** 0.5


def test_about_95_percent_of_the_intervals_contain_the_true_value():
    scales = [estimate(16, 2, 8, seed) for seed in range(200)]
    share = sum(one.low < NOISE / GRADIENT < one.high for one in scales) / len(scales)
    assert 0.9 < share < 0.99


def test_pure_noise_has_no_upper_bound():
    generator = torch.Generator().manual_seed(1)
    norms = GradientNorms(4, 2)
    collect((torch.randn(DIMENSIONS, generator=generator) for _ in range(32)), norms, OneProcess())
    scale = norms.estimate()
    assert math.isinf(scale.high)
    assert scale.as_json()["high"] is None
    assert "no upper bound" in str(scale) or "not distinguishable" in str(scale)


def test_gradient_and_noise_follow_from_two_norms():
    small, big = 0.5 + 12.0 / 4, 0.5 + 12.0 / 64
    assert unbiased(small, big, 4, 64) == pytest.approx((0.5, 12.0))
