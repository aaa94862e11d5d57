"""The gradient noise scale: right where it is known, and the same from ranks as from turns."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.support.batch_size.gradient_noise import (
    GradientNorms,
    NoiseScale,
    collect,
    unbiased,
)

REPO = Path(__file__).resolve().parents[2]
DIMENSIONS, GRADIENT, NOISE = 50, 0.36, 90.0  # of the quadratic: |G|^2, tr(Sigma)


class Alone:
    """An engine of one process, as far as sums go."""

    world_size, device = 1, torch.device("cpu")

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values


def a_quadratic(batches: int, micro: int, seed: int):
    """Gradients of mean(w H w / 2 + noise w) over micro batches, at weights that stand still."""
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
    collect(a_quadratic(groups * per_group, micro, seed), norms, Alone())
    return norms.estimate()


@pytest.mark.parametrize(("groups", "micro"), [(8, 1), (16, 4), (50, 16)])
def test_a_quadratic_of_known_noise_is_measured_within_a_tenth(groups, micro):
    found = estimate(groups, 24_000 // groups // micro, micro)
    assert found.gradient == pytest.approx(GRADIENT, rel=0.1)
    assert found.noise == pytest.approx(NOISE, rel=0.05)
    assert found.pages == pytest.approx(NOISE / GRADIENT, rel=0.1)
    assert found.low < NOISE / GRADIENT < found.high


def test_it_is_unbiased_though_a_batch_is_mostly_noise():
    """The mean over many small samples, each of which is nearly all noise, is the truth."""
    found = [estimate(4, 2, 4, seed) for seed in range(400)]
    gradients = torch.tensor([one.gradient for one in found], dtype=torch.float64)
    noises = torch.tensor([one.noise for one in found], dtype=torch.float64)
    for values, truth in ((gradients, GRADIENT), (noises, NOISE)):
        assert abs(values.mean() - truth) < 3 * values.std() / len(found) ** 0.5


def test_nineteen_of_twenty_intervals_hold_the_truth():
    found = [estimate(16, 2, 8, seed) for seed in range(200)]
    share = sum(one.low < NOISE / GRADIENT < one.high for one in found) / len(found)
    assert 0.9 < share < 0.99


def test_what_is_all_noise_has_no_upper_end():
    generator = torch.Generator().manual_seed(1)
    norms = GradientNorms(4, 2)
    collect((torch.randn(DIMENSIONS, generator=generator) for _ in range(32)), norms, Alone())
    found = norms.estimate()
    assert math.isinf(found.high)
    assert found.as_json()["high"] is None
    assert "no upper bound" in str(found) or "not distinguishable" in str(found)


def test_two_norms_solve_for_gradient_and_noise():
    small, big = 0.5 + 12.0 / 4, 0.5 + 12.0 / 64
    assert unbiased(small, big, 4, 64) == pytest.approx((0.5, 12.0))


def on_ranks(ranks: int, seed: int, folder: Path, *settings: str) -> dict[str, float]:
    """What the command measures of the default experiment's start; null is infinity."""
    out = folder / f"{ranks}-{seed}.json"
    start = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    engine = "single" if ranks == 1 else "ddp"
    start += ["--config_file", f"accelerate_configs/{engine}.yaml", "--main_process_port", "0"]
    script = ["benchmarks/noise_scale.py", "--experiment", "default", "--pages", "384"]
    command = [*start, *script, "--seed", str(seed), "--json", str(out), *settings]
    subprocess.run(command, cwd=REPO, check=True, timeout=600)
    found = json.loads(out.read_text())
    return {name: math.inf if value is None else value for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("start", ["components", "random"])
def test_ranks_and_accumulation_measure_the_same_of_the_default_experiment(start, tmp_path):
    """From components the gradient is small and the bars are wide; from random weights narrow."""
    settings = [f"model.start={start}"]
    one, same, other = (
        on_ranks(ranks, seed, tmp_path, *settings) for ranks, seed in ((1, 0), (2, 0), (2, 1))
    )
    # Of the same pages it is the same number, of others one within the error bars of both.
    assert same == pytest.approx(one, rel=1e-3)
    assert max(one["low"], other["low"]) < min(one["high"], other["high"])
    assert one["noise"] == pytest.approx(other["noise"], rel=0.2)
    if start == "random":
        assert one["high"] < 10 * one["low"]
