"""Fit of the detail of samples (`prior/detail.py`) to training pages and their reconstructions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.engines.base import Engine
from vaetrain.model.vae import VAE
from vaetrain.prior.canvas import STEPS, VALUES, Canvas, to_values
from vaetrain.prior.config import PriorConfig
from vaetrain.prior.detail import Detail
from vaetrain.training.fit_loop import minimise

MAX_PAGES = 4096  # evenly chosen training pages that are decoded and fitted to
MAX_BYTES = 1 << 30  # of these pages and the decoded ones on the host, if all are of full height
BATCH = 8  # pages of similar heights in a step
# Pixels of a step, drawn at random: of those that differ from a neighbour, and of all others. Nine
# of ten pixels are of the second kind and tell little each.
CHANGES, PLAIN = 4000, 3000
LR = 2.0  # factor on `prior.lr`
WARMUP_STEPS = 50
CLIP_NORM = 1.0
SCALE = 1000.0  # the loss is in nats per page, of the order of thousands
MAX_FLAWS = 3  # rectangles that are changed in the first page of a batch, see `flawed`
MAX_SHIFT = 3  # levels


@dataclass
class Pages:
    """Pages of similar heights.

    Attributes:
        values: uint8 (B, H, W), of `to_values`.
        decoded: uint8 (B, 1, H, W), decoded from a draw of the posterior, in 255ths.
        heights: Long (B,), rows.
    """

    values: Tensor
    decoded: Tensor
    heights: Tensor


def fit_detail(
    model: VAE, data: PageReader, pages: Selection, config: PriorConfig, engine: Engine, seed: int
) -> Detail:
    """Fit the model of the detail on the main process, which reads all of its pages.

    The other ranks are in `follow_main`.

    Args:
        model: in evaluation mode, on the engine's device.
        pages: training pages.
        seed: of initial weights and all draws.

    Returns: on the engine's device, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    most = max(1, min(MAX_PAGES, MAX_BYTES // (2 * math.prod(model.size))))
    batches = decoded_pages(model, data, pages.thinned(most), engine, generator)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        detail = Detail(config.detail_width).to(engine.device)
        count = sum(len(batch.heights) for batch in batches)
        steps = min(config.detail_steps, config.detail_epochs * math.ceil(count / BATCH))
        fit_batches(detail, batches, steps, LR * config.lr, engine, generator)
    return detail.eval().requires_grad_(False)


@torch.no_grad()
def decoded_pages(
    model: VAE, data: PageReader, pages: Selection, engine: Engine, generator: torch.Generator
) -> list[Pages]:
    """Read pages, and decode a draw of each page's posterior; kept on the host."""
    places = np.arange(len(pages))
    by_height = pages.ids_at(places[np.argsort(pages.heights_at(places), kind="stable")])
    batches = []
    for numbers in np.array_split(by_height, -(-len(pages) // BATCH)):
        engine.tell_progress("decoding pages for the prior's detail")
        batch = data.batch_of(numbers).to(engine.device)
        images = batch.images()
        mu, logvar, _ = model.posterior(images, batch.heights)
        noise = torch.randn(mu.shape, generator=generator).to(mu.device)
        z = model.keep_latent(mu + (logvar / 2).exp() * noise, batch.heights)
        decoded = model.decode_padded(z, batch.heights, batch.size).clamp(0, 1)
        parts = to_values(images), (decoded * 255).round()
        batches.append(Pages(*(part.to("cpu", torch.uint8) for part in parts), batch.heights.cpu()))
    return batches


def fit_batches(
    detail: Detail,
    batches: list[Pages],
    steps: int,
    lr: float,
    engine: Engine,
    generator: torch.Generator,
) -> None:
    """Fit the model to random batches."""

    def loss() -> Tensor:
        batch = batches[int(torch.randint(len(batches), (), generator=generator))]
        return page_loss(detail, batch, generator, engine.device) / SCALE

    rate = {"lr": lr, "warmup": WARMUP_STEPS, "clip_norm": CLIP_NORM}
    minimise(detail, loss, steps, engine, name="the prior's detail", **rate)


def page_loss(
    detail: Detail, batch: Pages, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Return an unbiased estimate of the negative log likelihood, nats per page, from some pixels.

    The first page is read with flaws and has to be continued without, so that the model finds back
    to the decoded page after a pixel that no page would have.
    """
    values = batch.values.long()
    seen = torch.cat([flawed(values[:1], batch.heights[:1], generator), values[1:]])
    (page, row, column), weights = chosen_pixels(seen, batch.heights, generator)
    page, row, column, weights = (x.to(device) for x in (page, row, column, weights))
    decoded, heights = batch.decoded.to(device) / 255, batch.heights.to(device)
    canvas = Canvas.of(seen.to(device))
    context, coarse = detail.at(detail.contexts(decoded, heights), page, row, column)
    logarithms = detail.log_probabilities(
        canvas,
        canvas.places(page, row, column),
        context,
        coarse,
        values.to(device)[page, row, column],
    )
    return -(logarithms * weights).sum() / len(values)


def chosen_pixels(
    values: Tensor, heights: Tensor, generator: torch.Generator
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Draw pixels of pages Long (B, H, W), with repetition.

    Returns: page, row and column, Long (N,), and weights (N,), whose sums over the drawn pixels of
        each kind are the numbers of the pages' pixels of this kind.
    """
    inside = torch.arange(values.shape[1])[:, None] < heights[:, None, None]
    is_plain = torch.zeros_like(values, dtype=torch.bool)
    here, above = values[:, 1:, 1:], values[:, :-1]
    is_plain[:, 1:, 1:] = (here == above[:, :, 1:]) & (here == above[:, :, :-1])
    is_plain[:, 1:, 1:] &= here == values[:, 1:, :-1]
    pixels, weights = [], []
    for kind, count in ((inside & ~is_plain, CHANGES), (inside & is_plain, PLAIN)):
        of_kind = kind.nonzero()
        if len(of_kind):
            pixels.append(of_kind[torch.randint(len(of_kind), (count,), generator=generator)])
            weights.append(torch.full((count,), len(of_kind) / count))
    return tuple(torch.cat(pixels).unbind(1)), torch.cat(weights)


def flawed(values: Tensor, heights: Tensor, generator: torch.Generator) -> Tensor:
    """Return one page, Long (1, H, W), with flaws in one to `MAX_FLAWS` random rectangles.

    In a flaw the page is some levels deeper or less deep, has one value, or is a copy of another
    place of the page.
    """

    def number(below: int) -> int:
        return int(torch.randint(max(1, below), (), generator=generator))

    def length(most: int) -> int:
        share = torch.rand((), generator=generator).item()
        return max(1, min(most, round(2 * (most / 2) ** share)))

    page = values.clone()
    rows, columns = int(heights[0]), page.shape[2]
    for _ in range(1 + number(MAX_FLAWS)):
        size = length(rows), length(columns)
        target, other = (
            page[0]
            .narrow(0, number(rows - size[0] + 1), size[0])
            .narrow(1, number(columns - size[1] + 1), size[1])
            for _ in range(2)
        )
        depth = STEPS * (number(MAX_SHIFT) + 1) * (1 - 2 * number(2))
        flaws = target + depth, target[:1, :1].expand_as(target).clone(), other.clone()
        target.copy_(flaws[number(3)].clamp(0, VALUES - 1))
    return page
