"""The numbers of a validation, against formulas written out in numpy."""

from types import SimpleNamespace

import pytest
import torch

from shards.reading.batch import Batch
from tests.support.models import restless
from vaetrain.config.experiment import load_experiment
from vaetrain.evaluation.validation import (
    GRADIENT_ENERGIES,
    EncodedPages,
    alive_dimensions,
    encode_pages,
    summarise,
)
from vaetrain.losses.objective import Objective
from vaetrain.schedules import weights_at

N, D = 40, 6
NAMES = ("loss", "recon", "kl", "l1", "ssim", "ms_ssim", "ssim_sampled", *GRADIENT_ENERGIES)


@pytest.fixture
def pages() -> EncodedPages:
    draw = torch.Generator().manual_seed(0)
    mu = torch.randn(N, D, generator=draw) * torch.tensor([2.0, 1, 0.5, 0.2, 0.05, 0.0])
    heights = torch.full((N,), 64)
    heights[:3] = 10
    values = {name: torch.rand(N, generator=draw, dtype=torch.float64) for name in NAMES}
    logvar = torch.randn(N, D, generator=draw)
    kl = torch.rand(N, D, generator=draw, dtype=torch.float64)
    structure = torch.rand(N, 3, generator=draw)
    return EncodedPages(torch.arange(N), heights, values, mu, logvar, kl, structure)


def test_the_summary_is_what_the_formulas_say(pages):
    metrics = summarise(pages)
    mu = pages.mu.double().numpy()
    assert metrics["active_units"] == int((mu.var(0, ddof=1) > 0.01).sum()) == 4
    assert metrics["latent_std_mean"] == pytest.approx(mu.std(0, ddof=1).mean())
    assert metrics["kl_per_dim_max"] == pytest.approx(float(pages.kl.numpy().mean(0).max()))
    means = {name: float(value.mean()) for name, value in pages.values.items()}
    for name in set(NAMES) - set(GRADIENT_ENERGIES):
        rows = slice(3, None) if "ssim" in name else slice(None)
        assert metrics[name] == pytest.approx(float(pages.values[name][rows].mean())), name
    ratio = means["gradient_energy"] / means["page_gradient_energy"]
    assert metrics["gradient_energy_ratio"] == pytest.approx(ratio)


def test_what_cannot_be_measured_is_left_out(pages):
    fields = vars(pages) | {"values": {n: v[:1] for n, v in pages.values.items()}}
    one = EncodedPages(**{n: f if n == "values" else f[:1] for n, f in fields.items()})
    metrics = summarise(one)
    assert not {"ssim", "ms_ssim"} & set(metrics)
    assert "active_units" not in metrics


@pytest.mark.parametrize(("is_spatial", "alive"), [(False, 3), (True, 5)])
def test_a_dimension_is_alive_that_varies_and_costs_something(pages, is_spatial, alive):
    pages.kl[:] = torch.tensor([2.0, 0.09, 0.2, 0.2, 3.0, 3.0])  # four vary, the second for nothing
    model = SimpleNamespace(is_spatial=is_spatial, latent_dim=D)
    assert alive_dimensions(pages, model) == alive


class Alone:
    """An engine of one rank, as far as a validation knows it."""

    device = torch.device("cpu")

    def gather_ragged(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def probe(ignores_z: bool, skips: str) -> EncodedPages:
    """What validation finds of a model with skips, on four pages."""
    experiment = load_experiment(None, [f"model.skips={skips}", "model.latent_dim=8"])
    model = restless(experiment.model, 64, 64, 0.05).eval()
    if ignores_z:
        for layer in (model.linear.to_page, model.decoder.seed):
            for parameter in layer.parameters():
                parameter.detach().zero_()
    ids = torch.arange(4)
    # From nearly black to nearly white, so that their latents are far apart.
    pixels = (torch.rand(4, 1, 64, 64) * 50 + 65 * ids[:, None, None, None]).to(torch.uint8)
    batch = Batch(
        ids=ids,
        epochs=torch.zeros_like(ids),
        heights=torch.full_like(ids, 64),
        size=(64, 64),
        tops=torch.zeros_like(ids),
        canvas=torch.full((4, 2), 64.0),
        boxes=None,
        owner=None,
        pixels=pixels,
    )
    objective = Objective(experiment)
    return encode_pages(model, [batch], Alone(), objective, weights_at(experiment, 1.0, 2.0))


def change(pages: EncodedPages, probe: str) -> float:
    """The most that a probe changes a page's L1."""
    return float((pages.values[f"l1_{probe}"] - pages.values["l1"]).abs().max())


@pytest.mark.parametrize("skips", ["gated", "hierarchical"])
def test_the_probes_tell_a_decoder_that_ignores_its_latent(skips):
    honest, ignorant = probe(False, skips), probe(True, skips)
    assert change(ignorant, "shuffled") < 1e-6
    assert change(honest, "shuffled") > 1e-4
    # What it knows of the page came through the skips.
    assert change(ignorant, "without_skips") > 1e-4


def test_without_skips_there_is_nothing_to_probe_but_the_noise():
    found = summarise(probe(False, "none"))
    assert {"l1_sampled", "ssim_sampled"} <= set(found)
    assert not [name for name in found if "shuffled" in name or "without" in name]
