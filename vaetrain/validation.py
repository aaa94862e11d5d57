"""Validation: every page once, on any number of ranks, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shards.index import Index
from shards.reader import Batch
from vaetrain.engine import Engine
from vaetrain.latents import latent_metrics
from vaetrain.metrics import pixel_metrics
from vaetrain.model import VAEOutput
from vaetrain.objective import Objective
from vaetrain.retrieval import Names, label_metrics

SSIM_ROWS = 11  # a page with fewer has no room for SSIM's window
MOST_COMPARED = 2048  # pages that are compared with one another while training waits
PIXEL_METRICS = ("l1", "mse", "psnr", "ssim", "ms_ssim", "edge_f1")
ENERGIES = ("gradient_energy", "page_gradient_energy")
PER_PAGE = ("loss", "recon", "kl", *PIXEL_METRICS, *ENERGIES)


@dataclass(frozen=True)
class Pages:
    """What the model makes of a set of pages, in order of their ids, on every rank's host.

    Attributes:
        ids: Long (N,).
        heights: Long (N,), rows.
        values: float64 (N, len(PER_PAGE)).
        mu, logvar: float32 (N, D).
    """

    ids: Tensor
    heights: Tensor
    values: Tensor
    mu: Tensor
    logvar: Tensor


@torch.no_grad()
def encode_pages(
    model: nn.Module,
    batches: Iterable[Batch | None],
    engine: Engine,
    objective: Objective,
    beta: float,
) -> Pages:
    """Run the model over this rank's batches and bring the results of all ranks together.

    Reconstructions are decoded from `mu`. Collective.
    """

    def measure(batch: Batch) -> Tensor:
        images, heights = batch.images(), batch.heights
        mu, logvar = model.encode(images, heights)
        reconstruction = model.decode(mu, heights, batch.size)
        _, parts = objective(VAEOutput(reconstruction, mu, logvar), images, heights, beta)
        values = parts | pixel_metrics(reconstruction, images, heights)
        return torch.cat([torch.stack([values[name] for name in PER_PAGE], 1), mu, logvar], 1)

    columns = len(PER_PAGE) + 2 * model.latent_dim
    ids, heights, table = for_each_page(measure, columns, batches, engine)
    values, mu, logvar = table.split([len(PER_PAGE), model.latent_dim, model.latent_dim], dim=1)
    return Pages(ids, heights, values, mu.float(), logvar.float())


def for_each_page(
    measure: Callable[[Batch], Tensor],
    columns: int,
    batches: Iterable[Batch | None],
    engine: Engine,
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure all pages of all ranks; every rank must have the same number of batches.

    Args:
        measure: a batch on the device to float (B, columns).

    Returns: ids Long (N,) in ascending order, heights Long (N,), measurements float64 (N, columns),
        the same bits for any number of ranks that pad alike.
    """
    tables = []
    for batch in batches:
        rows = torch.empty(0, 2 + columns, dtype=torch.float64, device=engine.device)
        if batch is not None:
            batch = batch.to(engine.device)
            named = torch.stack([batch.ids, batch.heights], 1).double()
            rows = torch.cat([named, measure(batch).double()], 1)
        tables.append(rows)
    table = engine.gather_ragged(torch.cat(tables)).cpu()
    table = table[table[:, 0].argsort()]
    return table[:, 0].long(), table[:, 1].long(), table[:, 2:]


def page_means(table: Tensor, names: tuple[str, ...], heights: Tensor) -> dict[str, float]:
    """Means over pages of per-page values, by name; what cannot be measured is left out.

    Args:
        table: float64 (N, len(names)), a column for each name, `PIXEL_METRICS` and others; where
            both `ENERGIES` are among them, the ratio of their means takes their place.
        heights: Long (N,), rows; pages too low for SSIM's window are left out of SSIM and MS-SSIM.
    """
    columns = dict(zip(names, table.unbind(dim=1), strict=True))
    for name in ("ssim", "ms_ssim"):
        columns[name] = columns[name][heights >= SSIM_ROWS]
    means = {name: values.mean().item() for name, values in columns.items()}
    ours, theirs = (means.pop(name) for name in ENERGIES)
    if theirs > 0:
        means["gradient_energy_ratio"] = ours / theirs
    return measured(means)


def summarise(pages: Pages, index: Index | None = None) -> dict[str, float]:
    """The metrics of a set of pages, by the names they are logged under.

    Args:
        index: of the shards the pages are from; None: what needs labels is not measured.
    """
    metrics = page_means(pages.values, PER_PAGE, pages.heights)
    metrics |= latent_metrics(pages.ids, pages.mu, pages.logvar)
    if index is not None:
        metrics |= label_metrics(pages.mu, Names.of(index, pages.ids))
    return measured(metrics)


def measured(metrics: dict[str, float]) -> dict[str, float]:
    """Without those that are nan: what was not measured is left out, never written as 0."""
    return {name: value for name, value in metrics.items() if value == value}
