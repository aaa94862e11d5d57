"""What a reconstruction must beat to be worth anything: a blank page and the mean page."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from shards.reader import Batch
from vaetrain.engine import Engine
from vaetrain.metrics import pixel_metrics
from vaetrain.validation import ENERGIES, PIXEL_METRICS, for_each_page, page_means

SCORES = (*PIXEL_METRICS, *ENERGIES)


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


def score_page(page: Tensor, batches: Iterable[Batch | None], engine: Engine) -> dict[str, float]:
    """The pixel metrics of one constant page (1, 1, rows, width) as every reconstruction."""

    def measure(batch: Batch) -> Tensor:
        images = batch.images()
        guess = page[:, :, : batch.size[0]].expand_as(images)
        values = pixel_metrics(guess, images, batch.heights)
        return torch.stack([values[name] for name in SCORES], 1)

    _, heights, table = for_each_page(measure, len(SCORES), batches, engine)
    return page_means(dict(zip(SCORES, table.unbind(dim=1), strict=True)), heights)
