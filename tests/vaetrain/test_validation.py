"""The numbers of a validation, against formulas written out in numpy."""

import numpy as np
import pytest
import torch

from vaetrain.config import BetaConfig, LossConfig
from vaetrain.model import VAEOutput
from vaetrain.objective import Objective
from vaetrain.validation import ENERGIES, PER_PAGE, Pages, summarise

N, D = 40, 6


@pytest.fixture
def pages() -> Pages:
    draw = torch.Generator().manual_seed(0)
    mu = torch.randn(N, D, generator=draw) * torch.tensor([2.0, 1, 0.5, 0.2, 0.05, 0.0])
    heights = torch.full((N,), 64)
    heights[:3] = 10
    values = torch.rand(N, len(PER_PAGE), generator=draw, dtype=torch.float64)
    return Pages(torch.arange(N), heights, values, mu, torch.randn(N, D, generator=draw))


def test_the_summary_is_what_the_formulas_say(pages):
    metrics = summarise(pages)
    mu, logvar = pages.mu.double().numpy(), pages.logvar.double().numpy()
    assert metrics["active_units"] == int((mu.var(0, ddof=1) > 0.01).sum()) == 4
    assert metrics["latent_std_mean"] == pytest.approx(mu.std(0, ddof=1).mean())
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar)
    assert metrics["kl_per_dim_max"] == pytest.approx(kl.mean(0).max())
    means = dict(zip(PER_PAGE, pages.values.mean(dim=0).tolist(), strict=True))
    tall = dict(zip(PER_PAGE, pages.values[3:].mean(dim=0).tolist(), strict=True))
    for name in set(PER_PAGE) - set(ENERGIES):
        expected = tall[name] if name in ("ssim", "ms_ssim") else means[name]
        assert metrics[name] == pytest.approx(expected), name
    ratio = means["gradient_energy"] / means["page_gradient_energy"]
    assert metrics["gradient_energy_ratio"] == pytest.approx(ratio)


def test_what_cannot_be_measured_is_left_out(pages):
    one = Pages(*(field[:1] for field in vars(pages).values()))
    metrics = summarise(one)
    assert not {"ssim", "ms_ssim"} & set(metrics)
    assert "active_units" not in metrics


@pytest.mark.parametrize(
    ("reduction", "share"), [("sum", 1.0), ("mean", 1 / 5), ("pixel", 1 / (32 * 20))]
)
def test_the_objective_is_the_weighed_sum_of_its_parts(reduction, share):
    draw = torch.Generator().manual_seed(0)
    heights = torch.tensor([20, 20])
    target = torch.rand(2, 1, 20, 32, generator=draw)
    guess = torch.rand(2, 1, 20, 32, generator=draw)
    mu, logvar = torch.randn(2, 5, generator=draw), torch.randn(2, 5, generator=draw)
    objective = Objective(LossConfig(recon=2.0, ssim=0.5), BetaConfig(reduction=reduction))
    total, parts = objective(VAEOutput(guess, mu, logvar), target, heights, beta=0.3)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mu, (logvar / 2).exp()), normal(0.0, 1.0)).sum(1)
    l1 = (guess - target).abs().mean(dim=(1, 2, 3))
    expected = 2 * l1 + 0.5 * (1 - parts["ssim"]) + 0.3 * share * kl
    torch.testing.assert_close(parts["kl"], kl)
    torch.testing.assert_close(parts["recon"], l1)
    torch.testing.assert_close(total, expected)
