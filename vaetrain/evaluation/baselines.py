"""Baselines of reconstruction: a blank page, the mean page and PCA of whole pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader, TrainingData
from vaetrain.engines.base import Engine
from vaetrain.evaluation.pixel_metrics import GRADIENT_ENERGIES, PIXEL_METRICS, pixel_metrics
from vaetrain.evaluation.retrieval import PageLabels, vector_metrics
from vaetrain.evaluation.validation import page_means
from vaetrain.inference.each_page import for_each_page
from vaetrain.model.pca import principal_coordinates, shared_principal_components

MAX_FITTED_PAGES = 4096  # training pages that the mean page and PCA are fitted to
MAX_TABLE_BYTES = 1 << 30  # of pages that are in memory at once when a training ends


def mean_page(batches: Iterable[Batch | None], engine: Engine, rows: int, width: int) -> Tensor:
    """Return the mean page; the mean of a row is over the pages that have this row. Collective.

    Returns: float32 (1, 1, rows, width) on the device; rows beyond all pages are 0.
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
    """Principal component analysis (Pearson 1901) of all pixels of whole pages.

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
        table = page_table(batches, engine, size, to_main=True)
        if table is None:  # only the main process fits
            table = torch.empty(0, size[0] * size[1], device=engine.device)
        self.mean, self.components, _ = shared_principal_components(table, dimensions, engine)

    def pixels(self, batch: Batch) -> Tensor:
        """Return a batch's images as vectors of the fitted size: (B, rows * width)."""
        return page_pixels(batch, self.size[0])

    def embed(self, batch: Batch) -> Tensor:
        """Project the pages on the components: float32 (B, K)."""
        return (self.pixels(batch) - self.mean) @ self.components.T

    def reconstruct(self, batch: Batch) -> Tensor:
        """Reconstruct the pages from their projections: (B, 1, H, W), not clipped."""
        pages = self.mean + self.embed(batch) @ self.components
        return pages.view(-1, 1, *self.size)[:, :, : batch.size[0]]


def page_pixels(batch: Batch, rows: int) -> Tensor:
    """Return a batch's images as vectors, zero-padded to `rows`: float32 (B, rows * width)."""
    return F.pad(batch.images(), (0, 0, 0, rows - batch.size[0])).flatten(1)


def page_table(
    batches: Iterable[Batch | None],
    engine: Engine,
    size: tuple[int, int],
    *,
    to_main: bool = False,
) -> Tensor | None:
    """Gather all ranks' pages as vectors, zero-padded to `size`, (rows, width). Collective.

    Args:
        to_main: gather on the main process alone; the other ranks return None.

    Returns: float32 (N, rows * width) on the device, in ascending order of ids.
    """
    parts = [torch.empty(0, 1 + size[0] * size[1], device=engine.device)]
    for batch in batches:
        if batch is not None:
            batch = batch.to(engine.device)
            # float32 is exact for ids up to 2**24; beyond, adjacent ids may change places.
            parts.append(torch.cat([batch.ids.float()[:, None], page_pixels(batch, size[0])], 1))
    gather = engine.gather_to_main if to_main else engine.gather_ragged
    table = gather(torch.cat(parts))
    return None if table is None else table[table[:, 0].argsort(), 1:]


def constant_page(page: Tensor) -> Callable[[Batch], Tensor]:
    """Return a function that reconstructs every page as one constant page (1, 1, rows, width)."""
    return lambda batch: page[:, :, : batch.size[0]].expand(len(batch), -1, -1, -1)


def score_reconstructions(
    reconstruct: Callable[[Batch], Tensor], batches: Iterable[Batch | None], engine: Engine
) -> dict[str, float]:
    """Return the mean pixel metrics of reconstructions. Collective.

    Args:
        reconstruct: maps a batch on the device to (B, 1, H, W), not clipped.
    """
    names = (*PIXEL_METRICS, *GRADIENT_ENERGIES)

    def measure(batch: Batch) -> Tensor:
        values = pixel_metrics(reconstruct(batch), batch.images(), batch.heights)
        return torch.stack([values[name] for name in names], 1)

    means = None
    gathered = for_each_page(measure, len(names), batches, engine, to_main=True)
    if gathered is not None:
        _, heights, table = gathered
        means = page_means(dict(zip(names, table.unbind(dim=1), strict=True)), heights)
    return engine.broadcast_object(means)


def pixel_vectors(
    data: PageReader, pages: Selection, engine: Engine, size: tuple[int, int]
) -> Tensor | None:
    """Return vectors (N, D) with the pages' pixel distances. Collective.

    Args:
        size: rows and width that the pages are padded to.

    Returns: on the host of the main process, in ascending order of ids; None on the other ranks.
    """
    pixels = page_table(data.pages(pages), engine, size, to_main=True)
    if pixels is None:
        return None
    if len(pixels) < pixels.shape[1]:
        pixels = principal_coordinates(pixels)  # the same distances in fewer dimensions
    return pixels.cpu()


def score_baselines(data: TrainingData, components: int) -> dict[str, dict[str, float]]:
    """Return the validation scores of a run's baselines by their names. Collective.

    `blank page`, `mean page` and `pca` have pixel metrics; `pca` (by projections) and `pixels` have
    label metrics, on the main process. Mean and PCA are fitted to at most `MAX_FITTED_PAGES`
    training pages, the PCA also to at most `MAX_TABLE_BYTES` of them; `pixels` is omitted if the
    compared pages exceed this.

    Args:
        components: of the PCA: the number of latent dimensions.
    """
    if len(data.val) == 0:
        return {}
    engine, size = data.engine, (int(data.ladder[-1]), data.config.width)
    fits = MAX_TABLE_BYTES // (4 * size[0] * size[1])  # pages
    mean = mean_page(data.pages(data.train.thinned(MAX_FITTED_PAGES)), engine, *size)
    fitted = data.train.thinned(max(1, min(MAX_FITTED_PAGES, fits)))
    pca = PagePCA(data.pages(fitted), engine, size, components)
    reconstructions = {
        "blank page": constant_page(torch.zeros_like(mean)),
        "mean page": constant_page(mean),
        "pca": pca.reconstruct,
    }
    scores = {
        name: score_reconstructions(reconstruct, data.pages(data.val), engine)
        for name, reconstruct in reconstructions.items()
    }
    compared = data.compared
    projected = for_each_page(
        pca.embed, len(pca.components), data.pages(compared), engine, to_main=True
    )
    if projected is not None:
        labels = PageLabels.from_pages(data, projected[0])
        scores["pca"] |= vector_metrics(projected[2], labels)
    if len(compared) <= fits:
        pixels = pixel_vectors(data, compared, engine, size)
        if projected is not None:
            scores["pixels"] = vector_metrics(pixels, labels)
    return scores
