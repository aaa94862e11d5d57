"""Validation: encode and reconstruct every page once, on any number of ranks, and summarise.

Memory and time are bounded for any number of pages. Metrics that are means or moments are
accumulated over all pages; those that compare pages with one another are of a fixed subset, whose
outputs alone are gathered, and only on the main process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.engines.base import Engine
from vaetrain.evaluation.accumulators import MeanAccumulator, MomentAccumulator
from vaetrain.evaluation.latents import (
    LatentStatistics,
    latent_metrics,
    mutual_information,
    posterior_samples,
)
from vaetrain.evaluation.pixel_metrics import (
    GRADIENT_ENERGIES,
    PIXEL_METRICS,
    gradient_energy,
    pixel_metrics,
)
from vaetrain.evaluation.retrieval import PageLabels, vector_metrics
from vaetrain.inference.each_page import gather_pages
from vaetrain.inference.embedding import Features
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.embedding import EmbeddingSpace
from vaetrain.model.encoder import Level
from vaetrain.model.masked import Rows
from vaetrain.model.vae import Noise, draw_noise

ALIVE_KL = (
    0.1  # nats a page of an alive latent dimension or channel; a collapsed one has thousandths
)
PROBES = ("sampled", "without_skips", "shuffled", "vector")
PROBE_METRICS = ("l1", "ssim", "edge_f1")
VECTOR_ENERGY = "vector_gradient_energy"  # of the probe `vector`


def probe_value(metric: str, probe: str) -> str:
    """Return the name of a probe's metric."""
    return f"vector_{metric}" if probe == "vector" else f"{metric}_{probe}"


# Names of probe metrics, and the pixel metric of each.
PROBE_VALUES = {probe_value(metric, probe): metric for probe in PROBES for metric in PROBE_METRICS}


@dataclass(frozen=True)
class EncodedPages:
    """The model's outputs for the compared pages in ascending order of ids, on the host.

    Attributes:
        ids: Long (N,), sample ids.
        heights: Long (N,), rows of each page.
        values: float64 (N,) each, by name: the objective's parts, pixel metrics, and those of
            every probe, see `probe_value`.
        mu, logvar: float32 (N, D); of a spatial latent the mean over its positions.
        kl: float64 (N, K), KL in nats of each latent dimension, then of each ladder level.
        structure: float32 (N, S), see `vaetrain.model.embedding`.
    """

    ids: Tensor
    heights: Tensor
    values: dict[str, Tensor]
    mu: Tensor
    logvar: Tensor
    kl: Tensor
    structure: Tensor

    @property
    def features(self) -> Features:
        """Features of which the embedding consists."""
        return Features(self.ids, self.mu, self.logvar, self.structure)

    def embeddings(self, space: EmbeddingSpace) -> Tensor:
        """Return the embeddings of these pages: float64 (N, D + E + K)."""
        return self.features.vectors(space)


@dataclass(frozen=True)
class EncodedSet:
    """The model's outputs for a set of pages, on the main process.

    Attributes:
        means: mean of each per-page value over all pages, by name; see `page_means`.
        latents: statistics of the posteriors of all pages.
        pages: the compared pages: all, or a subset.
    """

    means: dict[str, float]
    latents: LatentStatistics
    pages: EncodedPages

    @classmethod
    def from_pages(cls, pages: EncodedPages) -> EncodedSet:
        """Return the set of these pages, all of which are compared."""
        latents = LatentStatistics.from_pages(pages.mu, pages.logvar, pages.kl)
        return cls(page_means(pages.values, pages.heights), latents, pages)


@torch.no_grad()
def encode_pages(
    model: nn.Module,
    batches: Iterable[Batch | None],
    engine: Engine,
    objective: Objective,
    weights: Weights,
    compared: Tensor | None = None,
) -> EncodedSet | None:
    """Run the model over this rank's batches and combine the results of all ranks. Collective.

    Reconstructions are decoded from `mu` with the model's skip connections. The probes are further
    reconstructions: `sampled` from latents drawn from the posterior and, if the model has skip
    connections, `without_skips` from `mu` alone and `shuffled` from the `mu` of another page with
    the skip connections of this page. `without_skips` decodes the means of a ladder's priors;
    `vector` samples of them. `bits_per_page` is of a sample of all latents, if the pixel loss is a
    likelihood.

    Args:
        compared: Long, ids of the compared pages, see `compared_ids`. None: all pages are compared,
            and their statistics are computed from their outputs in ascending order of ids, so that
            they are identical to the bit for any number of ranks that pad the pages alike.

    Returns: the outputs on the main process, None on the other ranks.
    """
    probes = probe_settings(model)
    names = list(dict.fromkeys([*objective.parts, *PIXEL_METRICS, *GRADIENT_ENERGIES]))
    names += [probe_value(metric, probe) for probe in probes for metric in PROBE_METRICS]
    names += [VECTOR_ENERGY] if "vector" in probes else []
    has_bound = objective.is_likelihood and model.decodes_latents_only
    names += ["bits_per_page"] if has_bound else []

    def measure(batch: Batch) -> tuple[Tensor, Level]:
        """Return all columns but the structure, (B, columns), and the encoder's last map."""
        images, heights = batch.images(), batch.heights
        posterior = model.posterior(images, heights)
        output = model.reconstruct(posterior, heights, batch.size)
        _, values = objective(output, images, heights, weights)
        values |= pixel_metrics(output.reconstruction, images, heights)
        noise = evaluation_noise(model, batch)
        for probe, settings in probes.items():
            if probe == "sampled":
                settings = {"eps": noise.eps, "ladder": noise.ladder}
            elif probe == "vector":
                settings = {"skips": False, "ladder": noise.ladder}
            probed = model.reconstruct(posterior, heights, batch.size, **settings)
            if probe == "sampled":
                sample = probed
            page = probed.reconstruction.clamp(0, 1)
            for metric in PROBE_METRICS:
                value = PIXEL_METRICS[metric].function(page, images, heights)
                values[probe_value(metric, probe)] = value
            if probe == "vector":
                values[VECTOR_ENERGY] = gradient_energy(page, heights)
        if has_bound:
            values["bits_per_page"] = objective.bits_per_page(sample, images, heights)
        columns = torch.stack([values[name] for name in names], 1)
        latents = [model.embed(x, heights) for x in (output.mu, output.logvar)]
        table = torch.cat([columns, *latents, kl_per_page_and_dimension(output)], 1)
        return table.float(), posterior.levels[-1]

    dimensions = model.latent_dim
    sizes = [len(names), dimensions, dimensions, dimensions + model.ladder_levels]
    structure_dim = sum(model.structure_sizes)
    collector = SetCollector(names, sizes, structure_dim, engine, compared)
    for batch in batches:
        if batch is not None:
            is_compared = collector.is_compared(batch.ids)
            batch = batch.to(engine.device)
            table, (last_map, rows) = measure(batch)
            structure = table.new_empty(0, structure_dim)
            if len(is_compared):
                level = (last_map[is_compared], Rows(*(part[is_compared] for part in rows)))
                images, heights = batch.images()[is_compared], batch.heights[is_compared]
                structure = model.structure(images, heights, [level])
            collector.update(batch.ids, batch.heights, table, is_compared, structure)
    return collector.result()


def compared_ids(pages: Selection, subset: Selection) -> Tensor | None:
    """Return the ids of a subset of pages, Long; None if it has all of them."""
    if len(subset) == len(pages):
        return None
    return torch.from_numpy(subset.ids_at(np.arange(len(subset))))


class SetCollector:
    """The model's outputs for the pages of this rank: rows of compared pages, moments of all."""

    def __init__(
        self,
        names: list[str],
        sizes: list[int],
        structure_dim: int,
        engine: Engine,
        compared: Tensor | None,
    ) -> None:
        """Start with no pages.

        Args:
            names: of the per-page values.
            sizes: number of columns of these values, `mu`, `logvar` and the KL.
            structure_dim: number of columns of the structure.
            compared: Long, ids of the compared pages; None: all, and no moments are accumulated.
        """
        self.names, self.sizes, self.structure_dim = names, sizes, structure_dim
        self.engine, self.compared = engine, compared
        self.keys: list[Tensor] = []
        self.rows: list[Tensor] = []
        _, dimensions, _, kl = sizes
        self.values = MeanAccumulator(len(names), engine.device)
        self.posteriors = MeanAccumulator(2 * dimensions + kl, engine.device)
        self.mu = MomentAccumulator(dimensions, engine.device)
        self.min_rows = torch.tensor([min_rows(name) for name in names], device=engine.device)

    def is_compared(self, ids: Tensor) -> Tensor:
        """Return which pages of a batch are compared: Long (C,), on the device.

        Args:
            ids: Long (B,), on the host, so that the device is not synchronised.
        """
        if self.compared is None:
            return torch.arange(len(ids), device=self.engine.device)
        return torch.isin(ids, self.compared).nonzero()[:, 0].to(self.engine.device)

    def update(
        self, ids: Tensor, heights: Tensor, table: Tensor, is_compared: Tensor, structure: Tensor
    ) -> None:
        """Add the pages of a batch.

        Args:
            ids, heights: Long (B,).
            table: float32 (B, columns), see `sizes`.
            is_compared: see the method.
            structure: float32 (C, S), of the compared pages.
        """
        if self.compared is not None:
            values, mu, logvar, kl = table.double().split(self.sizes, dim=1)
            self.values.update(values, heights[:, None] >= self.min_rows)
            self.posteriors.update(torch.cat([(logvar / 2).exp(), logvar.exp(), kl], 1))
            self.mu.update(mu)
        if len(is_compared):
            self.keys.append(torch.stack([ids, heights], 1)[is_compared])
            self.rows.append(torch.cat([table[is_compared], structure], 1))

    def result(self) -> EncodedSet | None:
        """Combine the pages of all ranks on the main process; None on the others. Collective."""
        columns = sum(self.sizes)
        gathered = gather_pages(self.keys, self.rows, columns + self.structure_dim, self.engine)
        summary = None if self.compared is None else self._summary()
        if gathered is None:
            return None
        ids, heights, table = gathered
        table, structure = table.split([columns, self.structure_dim], dim=1)
        values, mu, logvar, kl = table.double().split(self.sizes, dim=1)
        by_name = dict(zip(self.names, values.unbind(1), strict=True))
        pages = EncodedPages(ids, heights, by_name, mu.float(), logvar.float(), kl, structure)
        return EncodedSet.from_pages(pages) if summary is None else EncodedSet(*summary, pages)

    def _summary(self) -> tuple[dict[str, float], LatentStatistics]:
        """Return `means` and `latents` of an `EncodedSet`. Collective."""
        means = dict(zip(self.names, self.values.means(self.engine).tolist(), strict=True))
        columns = self.posteriors.means(self.engine)
        deviation, variance, kl = columns.split(self.sizes[1:])
        moments = self.mu.moments(self.engine)
        latents = LatentStatistics.from_moments(moments, deviation.mean().item(), variance, kl)
        return with_energy_ratio(means), latents


def probe_settings(model: nn.Module) -> dict[str, dict[str, bool]]:
    """Return the probes of a model, each with its arguments of `VAE.reconstruct` but the noise."""
    settings: dict[str, dict[str, bool]] = {"sampled": {}}
    if model.config.skips != "none":
        settings |= {"without_skips": {"skips": False}, "shuffled": {"shuffle": True}}
    if model.ladder_levels:
        settings["vector"] = {}
    return settings


def evaluation_noise(model: nn.Module, batch: Batch) -> Noise:
    """Draw the noise of samples; a page has the same noise in every evaluation."""
    keys = sample_keys(0, torch.zeros_like(batch.ids), batch.ids, "evaluation")
    return draw_noise(model, keys, batch.size, gate=1.0, dropout=0.0)


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
    return with_energy_ratio(means)


def with_energy_ratio(means: dict[str, float]) -> dict[str, float]:
    """Replace the gradient energies by their ratios to the page's, and omit undefined means."""
    means = dict(means)
    reconstructed, original = (means.pop(name) for name in GRADIENT_ENERGIES)
    of_vector = means.pop(VECTOR_ENERGY, None)
    if original > 0:
        means["gradient_energy_ratio"] = reconstructed / original
        if of_vector is not None:
            means["vector_gradient_energy_ratio"] = of_vector / original
    return drop_nan(means)


def min_rows(name: str) -> int:
    """Return the rows that a page needs for the pixel or probe metric of this name."""
    metric = PIXEL_METRICS.get(PROBE_VALUES.get(name, name))
    return 1 if metric is None else metric.min_rows


def summarise(
    encoded: EncodedSet, names: PageLabels | None = None, space: EmbeddingSpace | None = None
) -> dict[str, float]:
    """Return the metrics of a set of pages, by the names they are logged under.

    Args:
        names: of the compared pages; None: metrics that compare vectors of pages are omitted.
        space: of the embedding that these metrics are of; those with the suffix `_mu` are of `mu`.
    """
    metrics = encoded.means | latent_metrics(encoded.latents)
    pages = encoded.pages
    if len(pages.ids) > 1:
        mu, logvar = pages.mu.double(), pages.logvar.double()
        samples = posterior_samples(pages.ids, mu, logvar)
        metrics["mutual_information"] = mutual_information(mu, logvar, samples)
    if names is not None:
        metrics |= vector_metrics(pages.embeddings(space), names)
        metrics |= of_mu(vector_metrics(pages.mu, names))
    return drop_nan(metrics)


def of_mu(metrics: dict[str, float]) -> dict[str, float]:
    """Return metrics of raw `mu` under their names beside those of the embedding."""
    return {f"{name}_mu": value for name, value in metrics.items()}


def alive_dimensions(latents: LatentStatistics, model: nn.Module) -> int:
    """Count the latent dimensions (of a spatial latent: channels) that inform the decoder.

    They are active units with a mean KL over `ALIVE_KL`. The KL is needed because under a far too
    high beta `mu` may vary a little in most dimensions while all together carry less than a nat. In
    a spatial latent the KL alone decides: `mu` is a mean over positions here, in which the
    differences between pages average out.
    """
    alive = latents.kl[: model.latent_dim] > ALIVE_KL
    return int((alive if model.is_spatial else alive & latents.active).sum())


def drop_nan(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics without nan: an undefined metric is omitted, not written as 0."""
    return {name: value for name, value in metrics.items() if value == value}
