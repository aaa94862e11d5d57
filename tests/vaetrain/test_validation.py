"""The numbers of a validation, against formulas written out in numpy."""

import pytest
import torch

from vaetrain.validation import ENERGIES, Pages, summarise

N, D = 40, 6
NAMES = ("loss", "recon", "kl", "l1", "ssim", "ms_ssim", "ssim_sampled", *ENERGIES)


@pytest.fixture
def pages() -> Pages:
    draw = torch.Generator().manual_seed(0)
    mu = torch.randn(N, D, generator=draw) * torch.tensor([2.0, 1, 0.5, 0.2, 0.05, 0.0])
    heights = torch.full((N,), 64)
    heights[:3] = 10
    values = {name: torch.rand(N, generator=draw, dtype=torch.float64) for name in NAMES}
    logvar = torch.randn(N, D, generator=draw)
    kl = torch.rand(N, D, generator=draw, dtype=torch.float64)
    return Pages(torch.arange(N), heights, values, mu, logvar, kl)


def test_the_summary_is_what_the_formulas_say(pages):
    metrics = summarise(pages)
    mu = pages.mu.double().numpy()
    assert metrics["active_units"] == int((mu.var(0, ddof=1) > 0.01).sum()) == 4
    assert metrics["latent_std_mean"] == pytest.approx(mu.std(0, ddof=1).mean())
    assert metrics["kl_per_dim_max"] == pytest.approx(float(pages.kl.numpy().mean(0).max()))
    means = {name: float(value.mean()) for name, value in pages.values.items()}
    for name in set(NAMES) - set(ENERGIES):
        rows = slice(3, None) if "ssim" in name else slice(None)
        assert metrics[name] == pytest.approx(float(pages.values[name][rows].mean())), name
    ratio = means["gradient_energy"] / means["page_gradient_energy"]
    assert metrics["gradient_energy_ratio"] == pytest.approx(ratio)


def test_what_cannot_be_measured_is_left_out(pages):
    fields = vars(pages) | {"values": {n: v[:1] for n, v in pages.values.items()}}
    one = Pages(**{n: f if n == "values" else f[:1] for n, f in fields.items()})
    metrics = summarise(one)
    assert not {"ssim", "ms_ssim"} & set(metrics)
    assert "active_units" not in metrics
