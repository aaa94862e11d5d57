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
from vaetrain.inference.each_page import for_each_page
from vaetrain.model.vae import VAE
from vaetrain.prior.config import PriorConfig
from vaetrain.prior.flow import Flow
from vaetrain.prior.prior import Prior

MAX_PAGES = 65_536  # evenly chosen training pages that the prior is fitted to
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.01
EMA_HALF_LIFE = 0.05  # of the average of the weights, as a share of the steps
LABEL_DROPOUT = 0.2  # share of pages without their label, so that a sample needs none
MARK_EVERY = 20  # steps between signs of life for the other ranks


@dataclass
class Latents:
    """Posterior and page of each latent.

    Attributes:
        mu, deviation: float32 (N, D).
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
    """Fit a flow to the latents of training pages. Collective; only the main process fits.

    Args:
        model: with a vector latent, in evaluation mode, on the engine's device.
        pages: training pages; at most `MAX_PAGES` of them are used.
        max_height: rows of the tallest possible page.
        seed: of initial weights and noise.

    Returns: the prior on the engine's device; None on the other ranks.
    """
    latents = encode_latents(model, data, pages.thinned(MAX_PAGES), engine)
    if latents is None:
        return None
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        size = (latents.mu.shape[1], len(latents.labels), max_height)
        flow = Flow(*size, config.width, config.blocks)
        flow = fit_flow(flow, latents, config, engine)
    device = engine.device
    return Prior(flow, latents.heights, latents.page_labels, latents.labels).to(device)


def encode_latents(
    model: VAE, data: PageReader, pages: Selection, engine: Engine
) -> Latents | None:
    """Encode pages; return their latents on the host of the main process, None elsewhere."""

    @torch.no_grad()
    def measure(batch: Batch) -> Tensor:
        mu, logvar, _ = model.posterior(batch.images(), batch.heights)
        return torch.cat([mu, logvar], dim=1)

    columns = 2 * model.latent_dim
    gathered = for_each_page(measure, columns, data.pages(pages), engine, to_main=True)
    if gathered is None:
        return None
    ids, heights, table = gathered
    mu, logvar = table.float().chunk(2, dim=1)
    numbers = PageLabels.from_index(data.index, ids).labels
    used = [number for number in numbers.unique().tolist() if number >= 0]
    page_labels = torch.full_like(numbers, len(used))
    for position, number in enumerate(used):
        page_labels[numbers == number] = position
    labels = [data.index.labels[number] for number in used]
    return Latents(mu, (logvar / 2).exp(), heights, page_labels, labels)


def fit_flow(flow: Flow, latents: Latents, config: PriorConfig, engine: Engine) -> Flow:
    """Fit a flow by AdamW; return the moving average of its weights.

    Each step draws latents from the posteriors of random pages. The learning rate rises linearly
    and falls as a cosine to 0.
    """
    device, generator = engine.device, torch.Generator().manual_seed(torch.initial_seed())
    flow.mean.copy_(latents.mu.mean(dim=0))
    flow.std.copy_(latents.mu.std(dim=0, correction=0).clamp(min=1e-3))
    flow = flow.to(device)
    steps = fit_steps(len(latents.mu), config)
    decay = 0.5 ** (1 / (EMA_HALF_LIFE * steps))
    average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(decay))
    optimizer = torch.optim.AdamW(flow.parameters(), lr=config.lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    for step in range(steps):
        if step % MARK_EVERY == 0:
            engine.mark_progress(f"fitting the prior, step {step} of {steps}")
        batch = draw_batch(latents, config.batch, generator)
        loss = flow.loss(*(each.to(device) for each in batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(flow)
    return average.module.eval().requires_grad_(False)


def fit_steps(pages: int, config: PriorConfig) -> int:
    """Return the optimizer steps of a fit: `prior.steps`, or fewer for a small data set."""
    return min(config.steps, config.epochs * math.ceil(pages / config.batch))


def draw_batch(latents: Latents, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draw the arguments of `Flow.loss`: latents, noise, times, heights and labels."""
    chosen = torch.randint(len(latents.mu), (size,), generator=generator)
    shape = (size, latents.mu.shape[1])
    spread = torch.randn(shape, generator=generator) * latents.deviation[chosen]
    noise = torch.randn(shape, generator=generator)
    time = torch.rand(size, generator=generator)
    is_dropped = torch.rand(size, generator=generator) < LABEL_DROPOUT
    labels = torch.where(is_dropped, len(latents.labels), latents.page_labels[chosen])
    return latents.mu[chosen] + spread, noise, time, latents.heights[chosen], labels
