"""What a model must beat to be worth anything: a blank page, the mean page and their components."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.data.loading import TrainingData
from vaetrain.engines.base import Engine
from vaetrain.evaluation.pca import principal_components
from vaetrain.evaluation.pixel_metrics import pixel_metrics
from vaetrain.evaluation.validation import (
    GRADIENT_ENERGIES,
    PIXEL_METRICS,
    page_means,
)
from vaetrain.inference.each_page import for_each_page

BASELINE_PAGES = 4096  # training pages that the mean page is taken over, at most
SCORES = (*PIXEL_METRICS, *GRADIENT_ENERGIES)


def mean_page(batches: Iterable[Batch | None], engine: Engine, rows: int, width: int) -> Tensor:
    """The mean over pages, row by row over those that are so tall. Collective.

    Returns: float32 (1, 1, rows, width) on the device; rows that no page reaches are 0.
    """
    total = torch.zeros(rows, width, dtype=torch.float64, device=engine.device)
    pages = torch.zeros(rows, 1, dtype=torch.float64, device=engine.device)
    row = torch.arange(rows, device=engine.device)
    for batch in batches:
        if batch is not None:
            batch = batch.to(engine.device)
            total[: batch.size[0]] += batch.images().sum(dim=(0, 1))
            pages[:, 0] += (row < batch.heights.unsqueeze(1)).sum(0)
    return (engine.sum(total) / engine.sum(pages).clamp(min=1)).float()[None, None]


class PagePCA:
    """Principal component analysis (Pearson 1901) of whole pages, every pixel of them.

    Attributes:
        mean: float32 (rows * width,).
        components: float32 (K, rows * width), orthonormal.
    """

    def __init__(
        self,
        batches: Iterable[Batch | None],
        engine: Engine,
        size: tuple[int, int],
        dimensions: int,
    ) -> None:
        """Fit to these pages, padded with zeros to `size`, (rows, width). Collective."""
        self.size = size
        table = page_table(batches, engine, size)
        found = principal_components(table, dimensions)
        self.mean, self.components, _ = (engine.broadcast(part.contiguous()) for part in found)

    def pixels(self, batch: Batch) -> Tensor:
        """A batch's images, padded to the size that was fitted: (B, rows * width)."""
        return page_pixels(batch, self.size[0])

    def embed(self, batch: Batch) -> Tensor:
        """The pages' components: float32 (B, K)."""
        return (self.pixels(batch) - self.mean) @ self.components.T

    def reconstruct(self, batch: Batch) -> Tensor:
        """What the components make of the pages: (B, 1, H, W), not clipped."""
        pages = self.mean + self.embed(batch) @ self.components
        return pages.view(-1, 1, *self.size)[:, :, : batch.size[0]]


def page_pixels(batch: Batch, rows: int) -> Tensor:
    """A batch's images as vectors, padded with zeros to as many rows: float32 (B, rows * width)."""
    return F.pad(batch.images(), (0, 0, 0, rows - batch.size[0])).flatten(1)


def page_table(batches: Iterable[Batch | None], engine: Engine, size: tuple[int, int]) -> Tensor:
    """All ranks' pages as vectors, padded with zeros to `size`, (rows, width). Collective.

    Returns: float32 (N, rows * width) on the device, in order of ids.
    """
    parts = [torch.empty(0, 1 + size[0] * size[1], device=engine.device)]
    for batch in batches:
        if batch is not None:
            batch = batch.to(engine.device)
            # float32 holds ids that far exceed the pages that fit into memory here.
            parts.append(torch.cat([batch.ids.float()[:, None], page_pixels(batch, size[0])], 1))
    table = engine.gather_ragged(torch.cat(parts))
    return table[table[:, 0].argsort(), 1:]


def one_page(page: Tensor) -> Callable[[Batch], Tensor]:
    """What makes the constant page (1, 1, rows, width) every page's reconstruction."""
    return lambda batch: page[:, :, : batch.size[0]].expand(len(batch), -1, -1, -1)


def score_page(page: Tensor, batches: Iterable[Batch | None], engine: Engine) -> dict[str, float]:
    """The pixel metrics of one constant page (1, 1, rows, width) as every reconstruction."""
    return score(one_page(page), batches, engine)


def score(
    reconstruct: Callable[[Batch], Tensor], batches: Iterable[Batch | None], engine: Engine
) -> dict[str, float]:
    """The pixel metrics of what reconstructs a batch's pages, (B, 1, H, W). Collective."""

    def measure(batch: Batch) -> Tensor:
        values = pixel_metrics(reconstruct(batch), batch.images(), batch.heights)
        return torch.stack([values[name] for name in SCORES], 1)

    _, heights, table = for_each_page(measure, len(SCORES), batches, engine)
    return page_means(dict(zip(SCORES, table.unbind(dim=1), strict=True)), heights)


def score_constant_pages(data: TrainingData) -> dict[str, dict[str, float]]:
    """The scores of a blank page and of the mean training page in validation. Collective."""
    if len(data.val) == 0:
        return {}
    training_pages = data.pages(data.train.thinned(BASELINE_PAGES))
    mean = mean_page(training_pages, data.engine, int(data.ladder[-1]), data.config.width)
    return {
        name: score_page(page, data.pages(data.val), data.engine)
        for name, page in (("blank page", torch.zeros_like(mean)), ("mean page", mean))
    }
