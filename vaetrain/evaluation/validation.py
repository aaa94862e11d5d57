"""Validation: encode and reconstruct every page once, on any number of ranks, and summarise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shards.format.index import Index
from shards.randomness import sample_keys
from shards.reading.batch import Batch
from vaetrain.engines.base import Engine
from vaetrain.evaluation.latents import is_active, latent_metrics
from vaetrain.evaluation.pixel_metrics import GRADIENT_ENERGIES, PIXEL_METRICS, pixel_metrics
from vaetrain.evaluation.retrieval import PageLabels, label_metrics
from vaetrain.inference.each_page import for_each_page
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.similarity import Similarity
from vaetrain.model.vae import draw_noise

MAX_COMPARED_PAGES = (
    2048  # of label metrics, which compare all pairs of pages, while training waits
)
ALIVE_KL = (
    0.1  # nats a page of an alive latent dimension or channel; a collapsed one has thousandths
)
PROBES = ("sampled", "without_skips", "shuffled")
PROBE_METRICS = ("l1", "ssim")
# Names of probe metrics, and the pixel metric of each.
PROBE_VALUES = {f"{metric}_{probe}": metric for probe in PROBES for metric in PROBE_METRICS}


@dataclass(frozen=True)
class EncodedPages:
    """The model's outputs for a set of pages in ascending order of ids, on the host of every rank.

    Attributes:
        ids: Long (N,), sample ids.
        heights: Long (N,), rows of each page.
        values: float64 (N,) each, by name: the objective's parts, pixel metrics, and
            `<metric>_<probe>` for every probe.
        mu, logvar: float32 (N, D); of a spatial latent the mean over its positions.
        kl: float64 (N, K), KL in nats of each latent dimension, then of each ladder level.
        structure: float32 (N, S), see `vaetrain.model.similarity`.
    """

    ids: Tensor
    heights: Tensor
    values: dict[str, Tensor]
    mu: Tensor
    logvar: Tensor
    kl: Tensor
    structure: Tensor

    def search_vectors(self) -> Tensor:
        """Return the vectors by which a search compares these pages: float64 (N, D + S)."""
        space = Similarity(self.mu, self.logvar, self.structure)
        return space.vectors(self.mu, self.structure)


@torch.no_grad()
def encode_pages(
    model: nn.Module,
    batches: Iterable[Batch | None],
    engine: Engine,
    objective: Objective,
    weights: Weights,
) -> EncodedPages:
    """Run the model over this rank's batches and gather the results of all ranks. Collective.

    Reconstructions are decoded from `mu` with the model's skip connections. The probes are further
    reconstructions: `sampled` from a latent drawn from the posterior and, if the model has skip
    connections, `without_skips` from `mu` alone and `shuffled` from the `mu` of another page with
    the skip connections of this page.
    """
    probes = probe_settings(model)
    names = list(dict.fromkeys([*objective.parts, *PIXEL_METRICS, *GRADIENT_ENERGIES]))
    names += [f"{metric}_{probe}" for probe in probes for metric in PROBE_METRICS]

    def measure(batch: Batch) -> Tensor:
        images, heights = batch.images(), batch.heights
        posterior = model.posterior(images, heights)
        output = model.reconstruct(posterior, heights, batch.size)
        _, values = objective(output, images, heights, weights)
        values |= pixel_metrics(output.reconstruction, images, heights)
        for probe, settings in probes.items():
            if probe == "sampled":
                settings = {"eps": evaluation_noise(model, batch)}
            probed = model.reconstruct(posterior, heights, batch.size, **settings)
            page = probed.reconstruction.clamp(0, 1)
            for metric in PROBE_METRICS:
                value = PIXEL_METRICS[metric].function(page, images, heights)
                values[f"{metric}_{probe}"] = value
        columns = torch.stack([values[name] for name in names], 1)
        latents = [model.embed(x, heights) for x in (output.mu, output.logvar)]
        structure = model.structure(posterior.levels)
        return torch.cat([columns, *latents, kl_per_page_and_dimension(output), structure], 1)

    dimensions = model.latent_dim
    sizes = [len(names), dimensions, dimensions, dimensions + model.ladder_levels]
    sizes.append(model.structure_dim)
    ids, heights, table = for_each_page(measure, sum(sizes), batches, engine)
    values, mu, logvar, kl, structure = table.split(sizes, dim=1)
    by_name = dict(zip(names, values.unbind(1), strict=True))
    return EncodedPages(ids, heights, by_name, mu.float(), logvar.float(), kl, structure.float())


def probe_settings(model: nn.Module) -> dict[str, dict[str, bool]]:
    """Return the probes of a model, each with its arguments of `VAE.reconstruct`."""
    settings: dict[str, dict[str, bool]] = {"sampled": {}}
    if model.config.skips != "none":
        settings |= {"without_skips": {"skips": False}, "shuffled": {"shuffle": True}}
    return settings


def evaluation_noise(model: nn.Module, batch: Batch) -> Tensor:
    """Draw the noise of posterior samples; a page has the same noise in every evaluation."""
    keys = sample_keys(0, torch.zeros_like(batch.ids), batch.ids, "evaluation")
    return draw_noise(model, keys, batch.size, gate=1.0, dropout=0.0).eps


def page_means(values: dict[str, Tensor], heights: Tensor) -> dict[str, float]:
    """Return the means over pages of per-page values, by name; undefined ones are omitted.

    Args:
        values: float64 (N,) each. Both `GRADIENT_ENERGIES` are required; the ratio of their means
            replaces them as `gradient_energy_ratio`.
        heights: Long (N,), rows; pages below a metric's `min_rows` are excluded from its mean.
    """
    means = {}
    for name, column in values.items():
        needed = min_rows(name)
        measurable = column if needed == 1 else column[heights >= needed]
        means[name] = measurable.mean().item()
    reconstructed, original = (means.pop(name) for name in GRADIENT_ENERGIES)
    if original > 0:
        means["gradient_energy_ratio"] = reconstructed / original
    return drop_nan(means)


def min_rows(name: str) -> int:
    """Return the rows that a page needs for the pixel or probe metric of this name."""
    metric = PIXEL_METRICS.get(PROBE_VALUES.get(name, name))
    return 1 if metric is None else metric.min_rows


def summarise(pages: EncodedPages, index: Index | None = None) -> dict[str, float]:
    """Return the metrics of a set of pages, by the names they are logged under.

    Args:
        index: index of the pages' shards; None: metrics that need labels are omitted.
    """
    metrics = page_means(pages.values, pages.heights)
    metrics |= latent_metrics(pages.ids, pages.mu, pages.logvar)
    metrics["kl_per_dim_max"] = pages.kl.mean(dim=0).max().item()
    if index is not None:
        metrics |= label_metrics(pages.mu, PageLabels.from_index(index, pages.ids))
    return drop_nan(metrics)


def alive_dimensions(pages: EncodedPages, model: nn.Module) -> int:
    """Count the latent dimensions (of a spatial latent: channels) that inform the decoder.

    They are active units with a mean KL over `ALIVE_KL`. The KL is needed because under a far too
    high beta `mu` may vary a little in most dimensions while all together carry less than a nat. In
    a spatial latent the KL alone decides: `mu` is a mean over positions here, in which the
    differences between pages average out.
    """
    alive = pages.kl[:, : model.latent_dim].mean(dim=0) > ALIVE_KL
    return int((alive if model.is_spatial else alive & is_active(pages.mu)).sum())


def drop_nan(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics without nan: an undefined metric is omitted, not written as 0."""
    return {name: value for name, value in metrics.items() if value == value}
