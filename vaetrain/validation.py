"""Validation: every page once, on any number of ranks, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shards.reader import Batch
from vaetrain import losses
from vaetrain.engine import Engine
from vaetrain.model import VAEOutput
from vaetrain.objective import Objective

ACTIVE_VARIANCE = 0.01  # of mu over the data (Burda et al. 2016, section 5.3)
SSIM_ROWS = 11  # a page with fewer has no room for SSIM's window
PIXEL_METRICS = ("l1", "mse", "ssim")
PER_PAGE = ("loss", "recon", "kl", *PIXEL_METRICS)


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


def pixel_metrics(reconstruction: Tensor, images: Tensor, heights: Tensor) -> dict[str, Tensor]:
    """L1, MSE and SSIM per page, (B,), of reconstructions (B, 1, H, W) clipped to [0, 1]."""
    clipped = reconstruction.clamp(0, 1)
    return {
        "l1": losses.l1(clipped, images, heights),
        "mse": losses.mse(clipped, images, heights),
        "ssim": losses.ssim(clipped, images, heights),
    }


def page_mean(values: Tensor, name: str, heights: Tensor) -> float:
    """The mean over pages of a per-page value (N,); pages too low for SSIM are left out of it."""
    return (values[heights >= SSIM_ROWS] if name == "ssim" else values).mean().item()


def summarise(pages: Pages) -> dict[str, float]:
    """The metrics of a set of pages, by the names they are logged under."""
    metrics = {
        name: page_mean(pages.values[:, column], name, pages.heights)
        for column, name in enumerate(PER_PAGE)
    }
    if len(pages.ids) > 1:
        variance = pages.mu.double().var(dim=0)
        metrics["active_units"] = int((variance > ACTIVE_VARIANCE).sum())
        metrics["latent_std_mean"] = variance.sqrt().mean().item()
    per_dimension = losses.gaussian_kl(pages.mu.double(), pages.logvar.double()).mean(dim=0)
    metrics["kl_per_dim_max"] = per_dimension.max().item()
    return {name: value for name, value in metrics.items() if value == value}
