"""Validation metrics, compared with formulas in numpy, and the probes."""

import math
from types import SimpleNamespace

import pytest
import torch

from shards.reading.batch import Batch
from tests.support.engines import FakeEngine
from tests.support.models import perturbed_model
from vaetrain.config.experiment import load_experiment
from vaetrain.evaluation.baselines import constant_page, score_reconstructions
from vaetrain.evaluation.pixel_metrics import (
    GRADIENT_ENERGIES,
    PIXEL_METRICS,
    PixelMetric,
    gradient_energy,
)
from vaetrain.evaluation.validation import (
    EncodedPages,
    EncodedSet,
    alive_dimensions,
    encode_pages,
    evaluation_noise,
    page_means,
    summarise,
)
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.losses.objective import Objective
from vaetrain.losses.pixel import levels_nll
from vaetrain.model.config import ModelConfig
from vaetrain.schedules import weights_at

N, D = 40, 6
NAMES = ("loss", "recon", "kl", "l1", "ssim", "ms_ssim", "ssim_sampled", *GRADIENT_ENERGIES)


@pytest.fixture
def pages() -> EncodedPages:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(N, D, generator=generator) * torch.tensor([2.0, 1, 0.5, 0.2, 0.05, 0.0])
    heights = torch.full((N,), 64)
    heights[:3] = 10
    values = {name: torch.rand(N, generator=generator, dtype=torch.float64) for name in NAMES}
    logvar = torch.randn(N, D, generator=generator)
    kl = torch.rand(N, D, generator=generator, dtype=torch.float64)
    structure = torch.rand(N, 3, generator=generator)
    return EncodedPages(torch.arange(N), heights, values, mu, logvar, kl, structure)


def test_summary_equals_the_formulas(pages):
    metrics = summarise(EncodedSet.from_pages(pages))
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


def test_undefined_metrics_are_omitted(pages):
    fields = vars(pages) | {"values": {n: v[:1] for n, v in pages.values.items()}}
    one = EncodedPages(**{n: f if n == "values" else f[:1] for n, f in fields.items()})
    metrics = summarise(EncodedSet.from_pages(one))
    assert not {"ssim", "ms_ssim"} & set(metrics)
    assert "active_units" not in metrics


@pytest.mark.parametrize(("is_spatial", "alive"), [(False, 3), (True, 5)])
def test_alive_dimensions_vary_and_have_kl(pages, is_spatial, alive):
    pages.kl[:] = torch.tensor(
        [2.0, 0.09, 0.2, 0.2, 3.0, 3.0]
    )  # the first four vary, the second without KL
    model = SimpleNamespace(is_spatial=is_spatial, latent_dim=D)
    assert alive_dimensions(EncodedSet.from_pages(pages).latents, model) == alive


def four_pages() -> Batch:
    torch.manual_seed(0)
    ids = torch.arange(4)
    # From nearly black to nearly white, so that the latents differ much.
    pixels = (torch.rand(4, 1, 64, 64) * 50 + 65 * ids[:, None, None, None]).to(torch.uint8)
    return Batch(
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


def encode_four_pages(skips: str, *settings: str, ignores_z: bool = False) -> EncodedSet:
    """Encode four pages with a random model; `ignores_z`: the decoder ignores the latent."""
    experiment = load_experiment(None, [f"model.skips={skips}", "model.latent_dim=8", *settings])
    model = perturbed_model(experiment.model, 64, 64, 0.05).eval()
    if ignores_z:
        for layer in (model.linear.to_page, model.decoder.seed):
            for parameter in layer.parameters():
                parameter.detach().zero_()
    batch = four_pages()
    objective = Objective(experiment)
    return encode_pages(model, [batch], FakeEngine(), objective, weights_at(experiment, 1.0, 2.0))


def largest_change(encoded: EncodedSet, probe: str) -> float:
    """Return the largest change of a page's L1 by a probe."""
    values = encoded.pages.values
    return float((values[f"l1_{probe}"] - values["l1"]).abs().max())


@pytest.mark.parametrize("skips", ["gated", "hierarchical"])
def test_probes_detect_a_decoder_that_ignores_the_latent(skips):
    using = encode_four_pages(skips)
    ignoring = encode_four_pages(skips, ignores_z=True)
    assert largest_change(ignoring, "shuffled") < 1e-6
    assert largest_change(using, "shuffled") > 1e-4
    # All its information about the page comes through the skip connections.
    assert largest_change(ignoring, "without_skips") > 1e-4


def test_a_model_without_skip_connections_has_one_probe():
    metrics = summarise(encode_four_pages("none"))
    assert {"l1_sampled", "ssim_sampled"} <= set(metrics)
    others = ("shuffled", "without", "vector_", "kl_level", "kl_latent")
    assert not [name for name in metrics if any(other in name for other in others)]


@torch.no_grad()
def test_a_ladder_is_also_measured_with_levels_sampled_from_their_prior():
    encoded = encode_four_pages("hierarchical")
    metrics, batch = summarise(encoded), four_pages()
    model = perturbed_model(ModelConfig(skips="hierarchical", latent_dim=8), 64, 64, 0.05).eval()
    mu, _ = model.encode(batch.images(), batch.heights)
    noise = evaluation_noise(model, batch).ladder
    pages = model.decode(mu, batch.heights, (64, 64), noise).clamp(0, 1)
    l1 = (pages - batch.images()).abs().mean()
    assert metrics["vector_l1"] == pytest.approx(l1.item(), rel=1e-4)
    assert abs(metrics["vector_l1"] - metrics["l1_without_skips"]) > 1e-4
    energies = [gradient_energy(x, batch.heights).mean() for x in (pages, batch.images())]
    ratio = (energies[0] / energies[1]).item()
    assert metrics["vector_gradient_energy_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert {"vector_ssim", "vector_edge_f1", "edge_f1_without_skips"} <= set(metrics)
    levels = [metrics[f"kl_level_{number}"] for number in (1, 2, 3, 4)]
    assert metrics["kl"] == pytest.approx(metrics["kl_latent"] + sum(levels), rel=1e-5)


LEVELS = ("model.output=levels", "loss.pixel=nll")


@pytest.mark.parametrize("skips", ["none", "hierarchical"])
def test_bits_per_page_are_the_bound_of_a_sample_of_all_latents(skips):
    experiment = load_experiment(None, [f"model.skips={skips}", "model.latent_dim=8", *LEVELS])
    model = perturbed_model(experiment.model, 64, 64, 0.05).eval()
    batch = four_pages()
    noise = evaluation_noise(model, batch)
    assert len(noise.ladder) == model.ladder_levels
    with torch.no_grad():
        sample = model(batch.images(), batch.heights, noise._replace(gate=torch.ones(4)))
    nll = levels_nll(sample.logits, batch.images(), batch.heights) * 64 * 64
    kl = kl_per_page_and_dimension(sample).sum(dim=1)
    bits = encode_four_pages(skips, *LEVELS).pages.values["bits_per_page"]
    torch.testing.assert_close(bits.float(), (nll + kl) / math.log(2), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    ("skips", "settings"),
    [
        # The decoder sees features of the page that have no KL.
        ("gated", LEVELS),
        ("none", ()),
        ("none", ("model.output=sigmoid", "loss.pixel=bce")),
    ],
)
def test_without_a_bound_there_are_no_bits_per_page(skips, settings):
    assert "bits_per_page" not in summarise(encode_four_pages(skips, *settings))


def test_a_registered_metric_appears_in_validation_and_in_baselines(monkeypatch):
    """One function registered in one place, as the recipe for a new metric says."""

    def brightness_error(reconstruction, page, heights):
        return (reconstruction.mean(dim=(1, 2, 3)) - page.mean(dim=(1, 2, 3))).abs()

    monkeypatch.setitem(PIXEL_METRICS, "brightness_error", PixelMetric(brightness_error, 1))
    encoded = encode_four_pages("none")
    expected = float(encoded.pages.values["brightness_error"].mean())
    assert summarise(encoded)["brightness_error"] == pytest.approx(expected)
    assert expected > 0
    blank = constant_page(torch.zeros(1, 1, 64, 64))
    batch = four_pages()
    scores = score_reconstructions(blank, [batch], FakeEngine())
    assert scores["brightness_error"] == pytest.approx(float(batch.images().mean()), rel=1e-5)


def test_pages_below_a_metrics_min_rows_are_excluded(monkeypatch):
    metric = PixelMetric(lambda reconstruction, page, heights: heights.float(), 20)
    monkeypatch.setitem(PIXEL_METRICS, "height", metric)
    heights = torch.tensor([10, 20, 40])
    energies = dict.fromkeys(GRADIENT_ENERGIES, torch.ones(3).double())
    means = page_means({"height": heights.double(), "l1": heights.double(), **energies}, heights)
    assert means["height"] == 30
    assert means["l1"] == pytest.approx(70 / 3)
