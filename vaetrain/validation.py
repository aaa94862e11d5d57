"""Validation: every page once, on any number of ranks, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Iterable
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
PER_PAGE = ("loss", "recon", "l1", "mse", "ssim", "kl")


@dataclass(frozen=True)
class Pages:
    """What the model makes of a set of pages, in order of their ids, on every rank.

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
    batch_size: int,
) -> Pages:
    """Run the model over this rank's batches and bring the results of all ranks together.

    Reconstructions are decoded from `mu`. Pixel metrics are of the reconstruction clipped to
    [0, 1], means over the valid pixels of a page.
    """
    collected = []
    for batch in batches:
        if batch is not None:
            rows = _encode_batch(model, batch.to(engine.device), objective, beta)
        # A rank without pages in this round sends as many empty rows as the others send pages.
        full = torch.full(
            (batch_size, rows.shape[1]), -1.0, dtype=torch.float64, device=engine.device
        )
        if batch is not None:
            full[: len(rows)] = rows
        collected.append(engine.gather(full))
    table = torch.cat(collected).cpu()
    table = table[table[:, 0] >= 0]
    table = table[table[:, 0].argsort()]
    values, latents = table[:, 2 : 2 + len(PER_PAGE)], table[:, 2 + len(PER_PAGE) :].float()
    mu, logvar = latents.chunk(2, dim=1)
    return Pages(table[:, 0].long(), table[:, 1].long(), values, mu, logvar)


def _encode_batch(model: nn.Module, batch: Batch, objective: Objective, beta: float) -> Tensor:
    images, heights = batch.images(), batch.heights
    mu, logvar = model.encode(images, heights)
    reconstruction = model.decode(mu, heights, batch.size)
    loss, parts = objective(VAEOutput(reconstruction, mu, logvar), images, heights, beta)
    clipped = reconstruction.clamp(0, 1)
    values = {
        "loss": loss,
        "recon": parts["recon"],
        "l1": losses.l1(clipped, images, heights),
        "mse": losses.mse(clipped, images, heights),
        "ssim": losses.ssim(clipped, images, heights),
        "kl": parts["kl"],
    }
    columns = [batch.ids, heights, *(values[name] for name in PER_PAGE)]
    return torch.cat([torch.stack([c.double() for c in columns], 1), mu, logvar], dim=1)


def summarise(pages: Pages) -> dict[str, float]:
    """The metrics of a set of pages, by the names they are logged under."""
    metrics = {}
    for column, name in enumerate(PER_PAGE):
        counted = pages.heights >= SSIM_ROWS if name == "ssim" else slice(None)
        chosen = pages.values[counted, column]
        if len(chosen):
            metrics[name] = chosen.mean().item()
    if len(pages.ids) > 1:
        variance = pages.mu.double().var(dim=0)
        metrics["active_units"] = int((variance > ACTIVE_VARIANCE).sum())
        metrics["latent_std_mean"] = variance.sqrt().mean().item()
    per_dimension = losses.gaussian_kl(pages.mu.double(), pages.logvar.double()).mean(dim=0)
    metrics["kl_per_dim_max"] = per_dimension.max().item()
    return metrics


@torch.no_grad()
def baselines(
    train: Iterable[Batch | None], val: Iterable[Batch | None], engine: Engine, max_height: int
) -> dict[str, dict[str, float]]:
    """What a blank page and the mean training page score on the validation pages.

    The mean page has, in each row, the mean of the training pages that are so tall. Collective.

    Returns: `{"blank": {"l1": ..., "ssim": ...}, "mean page": {...}}`.
    """
    sums: Tensor | None = None
    for batch in train:
        if batch is not None:
            images = batch.to(engine.device).images()
            if sums is None:
                sums = images.new_zeros(2, max_height, images.shape[3])
            rows = torch.arange(images.shape[2], device=engine.device)
            valid = (rows < batch.heights.to(engine.device).unsqueeze(1)).sum(0)
            height = min(max_height, images.shape[2])
            sums[0, :height] += images.sum(dim=(0, 1))[:height]
            sums[1, :height] += valid[:height].unsqueeze(1)
    sums = engine.sum(sums)
    return sums
