"""Fit of the prior to the latents of the training pages, after the model is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.engines.base import Engine
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.inference.each_page import gather_pages
from vaetrain.model.layers import fit_rows
from vaetrain.model.vae import VAE
from vaetrain.prior.config import PriorConfig
from vaetrain.prior.flow import Flow
from vaetrain.prior.prior import Prior, build_flow
from vaetrain.training.detail_fit import fit_detail
from vaetrain.training.fit_loop import minimise

MAX_PAGES = 65_536  # evenly chosen training pages that the prior is fitted to
MAX_VALUES = 2**27  # of their latents: half a GiB for the means, as much for the deviations
WARMUP_STEPS = 100
EMA_HALF_LIFE = 0.05  # of the average of the weights, as a share of the steps
LABEL_DROPOUT = 0.2  # share of pages without their label, so that a sample needs none


@dataclass
class Latents:
    """Posterior and page of each latent.

    Attributes:
        mu, deviation: float32 (N, D), or (N, D, h, w) with 0 below the pages.
        heights: Long (N,), rows.
        page_labels: Long (N,), positions in `labels`; `len(labels)`: no label.
        labels: names.
    """

    mu: Tensor
    deviation: Tensor
    heights: Tensor
    page_labels: Tensor
    labels: list[str]


def fit_prior(
    model: VAE,
    data: PageReader,
    pages: Selection,
    config: PriorConfig,
    engine: Engine,
    *,
    max_height: int,
    seed: int,
) -> Prior | None:
    """Fit a prior to training pages. Collective; only the main process fits.

    It is a flow of their latents and, unless `prior.detail` is off, a model of their detail.

    Args:
        model: in evaluation mode, on the engine's device.
        pages: training pages; evenly chosen ones if they have more than `MAX_PAGES` pages or
            `MAX_VALUES` latent values.
        max_height: rows of the tallest possible page.
        seed: of initial weights and noise.

    Returns: the prior on the engine's device; None on the other ranks.
    """
    shape = model.latent_shape((-(-max_height // model.stride) * model.stride, model.size[1]))
    count = max(1, min(MAX_PAGES, MAX_VALUES // math.prod(shape)))
    latents = encode_latents(model, data, pages.thinned(count), engine, shape)
    if latents is None:
        engine.follow_main()
        return None
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        size = (shape, len(latents.labels), max_height)
        flow = build_flow(*size, config.width, config.blocks)
        flow = fit_flow(flow, latents, config, engine)
    detail = fit_detail(model, data, pages, config, engine, seed) if config.detail else None
    engine.tell_progress(None)
    prior = Prior(flow, latents.heights, latents.page_labels, latents.labels, detail)
    return prior.to(engine.device)


def encode_latents(
    model: VAE, data: PageReader, pages: Selection, engine: Engine, shape: tuple[int, ...]
) -> Latents | None:
    """Encode pages; return their latents on the host of the main process, None elsewhere.

    Args:
        shape: of the tallest page's latent, to which all are padded.
    """

    keys, rows = [], []
    for batch in data.pages(pages):
        if batch is not None:
            batch = batch.to(engine.device)
            keys.append(torch.stack([batch.ids, batch.heights], dim=1))
            rows.append(posterior_values(model, batch, shape))
    gathered = gather_pages(keys, rows, 2 * math.prod(shape), engine)
    if gathered is None:
        return None
    ids, heights, table = gathered
    mu, deviation = table.unflatten(1, (2, *shape)).unbind(1)
    numbers = PageLabels.from_index(data.index, ids).labels
    used = [number for number in numbers.unique().tolist() if number >= 0]
    page_labels = torch.full_like(numbers, len(used))
    for position, number in enumerate(used):
        page_labels[numbers == number] = position
    labels = [data.index.labels[number] for number in used]
    return Latents(mu, deviation, heights, page_labels, labels)


@torch.no_grad()
def posterior_values(model: VAE, batch: Batch, shape: tuple[int, ...]) -> Tensor:
    """Return means and deviations of pages' posteriors, float32 (B, 2 * values of `shape`)."""
    mu, logvar, _ = model.posterior(batch.images(), batch.heights)
    parts = [mu, model.keep_latent((logvar / 2).exp(), batch.heights)]
    if model.is_spatial:
        parts = [fit_rows(part, shape[1]) for part in parts]
    return torch.stack(parts, dim=1).flatten(1).float()


def fit_flow(flow: Flow, latents: Latents, config: PriorConfig, engine: Engine) -> Flow:
    """Fit a flow by AdamW; return the moving average of its weights.

    Each step draws latents from the posteriors of random pages.
    """
    device, generator = engine.device, torch.Generator().manual_seed(torch.initial_seed())
    flow.set_statistics(latents.mu, latents.deviation, latents.heights)
    flow = flow.to(device)
    steps = fit_steps(len(latents.mu), config)
    decay = 0.5 ** (1 / (EMA_HALF_LIFE * steps))
    average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def loss() -> Tensor:
        batch = draw_batch(latents, config.batch, generator)
        return flow.loss(*(each.to(device) for each in batch)).mean()

    minimise(
        flow,
        loss,
        steps,
        engine,
        name="the prior",
        lr=config.lr,
        warmup=WARMUP_STEPS,
        after=lambda: average.update_parameters(flow),
    )
    return average.module.eval().requires_grad_(False)


def fit_steps(pages: int, config: PriorConfig) -> int:
    """Return the optimizer steps of a fit: `prior.steps`, or fewer for a small data set."""
    return min(config.steps, config.epochs * math.ceil(pages / config.batch))


def draw_batch(latents: Latents, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draw the arguments of `Flow.loss`: latents, noise, times, heights and labels."""
    chosen = torch.randint(len(latents.mu), (size,), generator=generator)
    mu, deviation = latents.mu[chosen], latents.deviation[chosen]
    spread = torch.randn(mu.shape, generator=generator) * deviation
    noise = torch.randn(mu.shape, generator=generator)
    time = torch.rand(size, generator=generator)
    is_dropped = torch.rand(size, generator=generator) < LABEL_DROPOUT
    labels = torch.where(is_dropped, len(latents.labels), latents.page_labels[chosen])
    return mu + spread, noise, time, latents.heights[chosen], labels
