"""Metrics of reconstructions that pretrained networks compute: FID and LPIPS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.evaluation.accumulators import MeanAccumulator, MomentAccumulator
from vaetrain.evaluation.fid import Gaussian, build_features, frechet_distance
from vaetrain.evaluation.validation import drop_nan
from vaetrain.inference.each_page import for_each_page
from vaetrain.losses.config import LossConfig
from vaetrain.losses.factory import find_lpips
from vaetrain.model.masked import keep, rows_at

MAX_GATHERED_PAGES = 4096  # more features are accumulated: those of a page take up to 32 KB


class NetworkMetrics:
    """FID and LPIPS of reconstructions of one set of pages."""

    def __init__(self, loss: LossConfig, data: PageReader, pages: Selection) -> None:
        """Load the networks; raises ConfigError if Inception's file is damaged.

        Args:
            loss: names the backbone of LPIPS.
        """
        self.engine, self.data, self.pages = data.engine, data, pages
        self.features = build_features().to(self.engine.device)
        lpips = find_lpips(loss)
        self.lpips = {} if lpips is None else {lpips[0]: lpips[1].to(self.engine.device)}

    @property
    def has_weights(self) -> bool:
        """Whether the weights of Inception or of LPIPS are on this machine."""
        return bool(self.lpips) or self.features.metric == "fid"

    @torch.no_grad()
    def metrics(self, reconstruct: Callable[[Batch], Tensor]) -> dict[str, float]:
        """Return the metrics of reconstructions. Collective.

        Args:
            reconstruct: maps a batch on the device to (B, 1, H, W), not clipped.

        Returns: on the main process, `fid` (or `fid_random`, see `build_features`) between pages
            and reconstructions, if there are two pages; `lpips_<net>`, mean over pages, if its
            weights are available. On the other ranks nothing.
        """
        few = len(self.pages) <= MAX_GATHERED_PAGES
        measured = (self._gathered if few else self._accumulated)(reconstruct)
        if measured is None:
            return {}
        gaussians, means = measured
        metrics = dict(zip(self.lpips, means.tolist(), strict=True))
        if len(self.pages) > 1:
            metrics[self.features.metric] = frechet_distance(*gaussians)
        return drop_nan(metrics)

    def _measure(self, reconstruct: Callable[[Batch], Tensor], batch: Batch) -> list[Tensor]:
        """Return a batch's features of reconstructions and of pages, and its LPIPS (B, L)."""
        page, heights = batch.images(), batch.heights
        made = keep(reconstruct(batch).clamp(0, 1), rows_at(heights, page.shape[2]))
        features = [self.features(images, heights) for images in (made, page)]
        distances = [network(made, page, heights)[:, None] for network in self.lpips.values()]
        return [*features, torch.cat([page.new_empty(len(page), 0), *distances], 1)]

    def _gathered(
        self, reconstruct: Callable[[Batch], Tensor]
    ) -> tuple[list[Gaussian], Tensor] | None:
        """Return the Gaussians of reconstructions and of pages, and the means of LPIPS (L,).

        The features of all pages are gathered, so that the result is identical to the bit for any
        number of ranks. None on all ranks but the main process.
        """
        sizes = [self.features.columns, self.features.columns, len(self.lpips)]
        gathered = for_each_page(
            lambda batch: torch.cat(self._measure(reconstruct, batch), 1),
            sum(sizes),
            self.data.pages(self.pages),
            self.engine,
            to_main=True,
        )
        if gathered is None:
            return None
        made, page, distances = gathered[2].split(sizes, dim=1)
        several = len(page) > 1
        gaussians = [Gaussian.from_features(x) for x in (made, page)] if several else []
        return gaussians, distances.mean(dim=0)

    def _accumulated(
        self, reconstruct: Callable[[Batch], Tensor]
    ) -> tuple[list[Gaussian], Tensor] | None:
        """Return the same as `_gathered`, up to rounding, without keeping a page's features."""
        device = self.engine.device
        features = [MomentAccumulator(self.features.columns, device) for _ in range(2)]
        distances = MeanAccumulator(len(self.lpips), device)
        for batch in self.data.pages(self.pages):
            if batch is not None:
                measured = self._measure(reconstruct, batch.to(device))
                for accumulator, values in zip([*features, distances], measured, strict=True):
                    accumulator.update(values)
        moments = [accumulator.moments(self.engine) for accumulator in features]
        means = distances.means(self.engine)
        if not self.engine.is_main:
            return None
        return [Gaussian.from_moments(each) for each in moments], means
