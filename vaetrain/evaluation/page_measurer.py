"""Measurements of real pages, samples and interpolations, by which sets of pages are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import EVALUATION_BATCH, PageReader
from vaetrain.engines.base import Engine
from vaetrain.evaluation import page_features
from vaetrain.evaluation.layout_statistics import STATISTICS, layout_statistics
from vaetrain.evaluation.page_features import FEATURES, FLAT_SHARE
from vaetrain.evaluation.two_sample import single_groups
from vaetrain.inference.each_page import for_each_page, gather_pages
from vaetrain.inference.prior_samples import draw_pages
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.vae import VAE
from vaetrain.prior.prior import Prior

SEED = 0  # of the samples: those that `vaetrain.sample` makes by default


@dataclass(frozen=True)
class MeasuredPages:
    """Measurements of a set of pages, on the host.

    Attributes:
        heights: Long (N,), rows.
        features: (N, FEATURES), of `page_features`.
        layout: (N, STATISTICS), of `layout_statistics`.
        raster: (N, cells), of `page_features.raster`.
        networks: by the metric's name, the features (N, D) of a network.
        groups: (N,), names of the groups of the two-sample test.
    """

    heights: Tensor
    features: Tensor
    layout: Tensor
    raster: Tensor
    networks: dict[str, Tensor]
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def flat_share(self) -> float:
        """Share of flat pixels, mean over the pages."""
        return self.features[:, FLAT_SHARE].mean().item()


class PageMeasurer:
    """Measures pages of one width on a device and gathers the measurements on the main process."""

    def __init__(
        self, engine: Engine, rows: int, width: int, networks: Iterable[nn.Module] = ()
    ) -> None:
        """Prepare measuring.

        Args:
            rows: of the tallest page.
            networks: feature networks of `vaetrain.evaluation.fid`, which take most of the time.
        """
        self.engine, self.size = engine, (rows, width)
        self.raster_size = page_features.raster_size(rows, width)
        self.networks = {
            network.metric: network.eval().requires_grad_(False).to(engine.device)
            for network in networks
        }
        cells = self.raster_size[0] * self.raster_size[1]
        self.columns = [FEATURES, STATISTICS, cells]
        self.columns += [network.columns for network in self.networks.values()]

    @torch.no_grad()
    def measure(self, images: Tensor, heights: Tensor) -> Tensor:
        """Measure pages on the device: float32 (B, columns).

        Args:
            images: (B, 1, H, W); anything in the padding is ignored.
            heights: Long (B,).
        """
        images = keep(page_features.rounded(images), rows_at(heights, images.shape[2]))
        parts = [
            page_features.page_features(images, heights),
            layout_statistics(images, heights),
            page_features.raster(images, self.raster_size),
        ]
        parts += [network(images, heights) for network in self.networks.values()]
        return torch.cat([part.float() for part in parts], dim=1)

    def gather(
        self, keys: list[Tensor], tables: list[Tensor], groups: Callable[[Tensor], np.ndarray]
    ) -> MeasuredPages | None:
        """Gather the pages of all ranks on the main process; None on the others. Collective.

        Args:
            keys: Long (B, 2) each, numbers and heights of the pages of this rank's batches.
            tables: float32 (B, columns) each, of `measure`.
            groups: returns the names of the groups of pages with these numbers.
        """
        gathered = gather_pages(keys, tables, sum(self.columns), self.engine)
        if gathered is None:
            return None
        numbers, heights, table = gathered
        features, layout, raster, *others = table.split(self.columns, dim=1)
        networks = dict(zip(self.networks, others, strict=True))
        return MeasuredPages(heights, features, layout, raster, networks, groups(numbers))

    def real_pages(
        self,
        data: PageReader,
        pages: Selection,
        made: Callable[[Batch], Tensor] = Batch.images,
    ) -> MeasuredPages | None:
        """Measure pages of shards; None on all ranks but the main process. Collective.

        Args:
            made: from a batch on the device to the images (B, 1, H, W) that are measured: the pages
                themselves, or their reconstructions.
        """
        keys, tables = [], []
        for batch in data.pages(pages):
            if batch is not None:
                batch = batch.to(self.engine.device)
                keys.append(torch.stack([batch.ids, batch.heights], 1))
                tables.append(self.measure(made(batch), batch.heights))

        def templates(ids: Tensor) -> np.ndarray:
            column = data.index.table[ids.numpy()]["template"]
            names = [data.index.templates[number] for number in column]
            # A page without a template has no near-duplicates.
            alone = single_groups(len(ids), "page")
            return np.array([name or alone[place] for place, name in enumerate(names)])

        return self.gather(keys, tables, templates)

    def rasters(self, data: PageReader, pages: Selection) -> tuple[Tensor, Tensor] | None:
        """Return heights Long (N,) and rasters (N, cells) of pages. Collective.

        For more pages than are measured completely. None on all ranks but the main process.
        """
        found = for_each_page(
            lambda batch: page_features.raster(
                page_features.rounded(batch.images()), self.raster_size
            ),
            self.raster_size[0] * self.raster_size[1],
            data.pages(pages),
            self.engine,
            to_main=True,
        )
        return None if found is None else (found[1], found[2].float())

    @torch.no_grad()
    def samples(
        self, model: VAE, prior: Prior | None, count: int, max_height: int
    ) -> MeasuredPages | None:
        """Measure the first `count` samples, as `vaetrain.sample` makes them. Collective.

        Each rank makes its share; None on all ranks but the main process.

        Args:
            prior: see `draw_pages`; the same on every rank.
            max_height: height of samples without a prior.
        """
        engine, width, keys, tables = self.engine, self.size[1], [], []
        parts = torch.arange(count).split(EVALUATION_BATCH)
        for numbers in parts[engine.rank :: engine.world_size]:
            engine.mark_progress("measuring samples")
            noise = sample_keys(SEED, torch.zeros_like(numbers), numbers, "prior")
            sizes = {"width": width, "max_height": max_height}
            images, heights = draw_pages(model, prior, noise.to(engine.device), None, **sizes)
            keys.append(torch.stack([numbers.to(engine.device), heights], 1))
            tables.append(self.measure(images, heights))
        return self.gather(keys, tables, lambda numbers: single_groups(len(numbers), "sample"))
