"""Validation: every page once, on any number of ranks, and the numbers that come of it."""

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
from vaetrain.evaluation.pixel_metrics import pixel_metrics
from vaetrain.evaluation.retrieval import PageLabels, label_metrics
from vaetrain.inference.each_page import for_each_page
from vaetrain.losses import pixel, ssim
from vaetrain.losses.kl import kl_per_page_and_dimension
from vaetrain.losses.objective import Objective
from vaetrain.losses.weights import Weights
from vaetrain.model.similarity import Similarity
from vaetrain.model.vae import draw_noise

SSIM_ROWS = 11  # a page with fewer has no room for SSIM's window
MAX_COMPARED_PAGES = 2048  # pages that are compared with one another while training waits
PIXEL_METRICS = ("l1", "mse", "psnr", "ssim", "ms_ssim", "edge_f1")
GRADIENT_ENERGIES = ("gradient_energy", "page_gradient_energy")
ALIVE_KL = 0.1  # a page and channel; a collapsed one costs thousandths
PROBE_METRICS = {"l1": pixel.l1, "ssim": ssim.ssim}  # the pixel metrics of what probes reconstruct


@dataclass(frozen=True)
class EncodedPages:
    """What the model makes of a set of pages, in order of their ids, on every rank's host.

    Attributes:
        ids: Long (N,).
        heights: Long (N,), rows.
        values: float64 (N,) each, by name: the objective's parts, pixel metrics, and these under
            `<metric>_<probe>` for every probe.
        mu, logvar: float32 (N, D), of a spatial latent the mean over its places.
        kl: float64 (N, K), nats of each latent dimension, and of each level of a ladder.
        structure: float32 (N, S), see `similarity`.
    """

    ids: Tensor
    heights: Tensor
    values: dict[str, Tensor]
    mu: Tensor
    logvar: Tensor
    kl: Tensor
    structure: Tensor

    def search_vectors(self) -> Tensor:
        """What a search among these pages goes by, float64 (N, D + S)."""
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
    """Run the model over this rank's batches and bring the results of all ranks together.

    Reconstructions are decoded from `mu`, with the skips that the model has. Probes: `sampled`
    decodes from a latent drawn from the posterior; of a model with skips, `without_skips` from
    `mu` alone, and `shuffled` from another page's `mu` with the page's own skips. Collective.
    """
    names = list(dict.fromkeys([*objective.parts, *PIXEL_METRICS, *GRADIENT_ENERGIES]))
    names += [f"{metric}_{probe}" for probe in probes(model) for metric in PROBE_METRICS]

    def measure(batch: Batch) -> Tensor:
        images, heights = batch.images(), batch.heights
        posterior = model.posterior(images, heights)
        output = model.reconstruct(posterior, heights, batch.size)
        _, values = objective(output, images, heights, weights)
        values |= pixel_metrics(output.reconstruction, images, heights)
        for probe, settings in probes(model).items():
            if probe == "sampled":
                settings = {"eps": evaluation_noise(model, batch)}
            probed = model.reconstruct(posterior, heights, batch.size, **settings)
            page = probed.reconstruction.clamp(0, 1)
            for metric, function in PROBE_METRICS.items():
                values[f"{metric}_{probe}"] = function(page, images, heights)
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


def probes(model: nn.Module) -> dict[str, dict[str, bool]]:
    """What else is reconstructed beside the page from its `mu`, as settings of `reconstruct`."""
    found: dict[str, dict[str, bool]] = {"sampled": {}}
    if model.config.skips != "none":
        found |= {"without_skips": {"skips": False}, "shuffled": {"shuffle": True}}
    return found


def evaluation_noise(model: nn.Module, batch: Batch) -> Tensor:
    """The noise of the posterior's draws: the same for a page in every evaluation."""
    keys = sample_keys(0, torch.zeros_like(batch.ids), batch.ids, "evaluation")
    return draw_noise(model, keys, batch.size, gate=1.0, dropout=0.0).eps


def page_means(values: dict[str, Tensor], heights: Tensor) -> dict[str, float]:
    """Means over pages of per-page values, by name; what cannot be measured is left out.

    Args:
        values: float64 (N,) each. Both `GRADIENT_ENERGIES` are needed; the ratio of their means
            replaces them.
        heights: Long (N,), rows; pages too low for SSIM's window are left out of SSIM and MS-SSIM.
    """
    means = {
        name: (column[heights >= SSIM_ROWS] if "ssim" in name else column).mean().item()
        for name, column in values.items()
    }
    ours, theirs = (means.pop(name) for name in GRADIENT_ENERGIES)
    if theirs > 0:
        means["gradient_energy_ratio"] = ours / theirs
    return drop_nan(means)


def summarise(pages: EncodedPages, index: Index | None = None) -> dict[str, float]:
    """The metrics of a set of pages, by the names they are logged under.

    Args:
        index: of the shards the pages are from; None: what needs labels is not measured.
    """
    metrics = page_means(pages.values, pages.heights)
    metrics |= latent_metrics(pages.ids, pages.mu, pages.logvar)
    metrics["kl_per_dim_max"] = pages.kl.mean(dim=0).max().item()
    if index is not None:
        metrics |= label_metrics(pages.mu, PageLabels.from_index(index, pages.ids))
    return drop_nan(metrics)


def alive_dimensions(pages: EncodedPages, model: nn.Module) -> int:
    """How many latent dimensions tell the decoder of a page; of a spatial latent, channels.

    They are active units that cost more than `ALIVE_KL` a page: under a beta far too high, `mu`
    may vary a little in most of them while all together say no more than a nat. Of a spatial latent
    the cost alone counts, for the mean over its places, which `mu` is there, evens out what differs
    between pages.
    """
    alive = pages.kl[:, : model.latent_dim].mean(dim=0) > ALIVE_KL
    return int((alive if model.is_spatial else alive & is_active(pages.mu)).sum())


def drop_nan(metrics: dict[str, float]) -> dict[str, float]:
    """Without those that are nan: what was not measured is left out, never written as 0."""
    return {name: value for name, value in metrics.items() if value == value}
