"""Metrics of reconstructions that pretrained networks compute: FID and LPIPS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.evaluation.fid import build_features, frechet_distance
from vaetrain.evaluation.validation import drop_nan
from vaetrain.inference.each_page import for_each_page
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses.factory import find_lpips
from vaetrain.model.masked import keep, rows_at


class NetworkMetrics:
    """FID and LPIPS of reconstructions of one set of pages."""

    def __init__(self, trained: TrainedModel, data: PageReader, pages: Selection) -> None:
        """Load the networks; raises ConfigError if Inception's file is damaged."""
        self.engine, self.data, self.pages = trained.engine, data, pages
        self.features = build_features().to(self.engine.device)
        lpips = find_lpips(trained.experiment.loss)
        self.lpips = {} if lpips is None else {lpips[0]: lpips[1].to(self.engine.device)}

    @torch.no_grad()
    def metrics(self, reconstruct: Callable[[Batch], Tensor]) -> dict[str, float]:
        """Return the metrics of reconstructions. Collective.

        Args:
            reconstruct: maps a batch on the device to (B, 1, H, W), not clipped.

        Returns: `fid` (or `fid_random`, see `build_features`) between pages and reconstructions, if
            there are two pages; `lpips_<net>`, mean over pages, if its weights are available.
        """
        columns = self.features.columns

        def measure(batch: Batch) -> Tensor:
            page, heights = batch.images(), batch.heights
            made = keep(reconstruct(batch).clamp(0, 1), rows_at(heights, page.shape[2]))
            features = [self.features(images, heights) for images in (page, made)]
            distances = [network(made, page, heights)[:, None] for network in self.lpips.values()]
            return torch.cat([*features, *distances], 1)

        batches = self.data.pages(self.pages)
        _, _, table = for_each_page(measure, 2 * columns + len(self.lpips), batches, self.engine)
        original, made, distances = table.split([columns, columns, len(self.lpips)], dim=1)
        metrics = dict(zip(self.lpips, distances.mean(dim=0).tolist(), strict=True))
        if len(table) > 1:
            metrics[self.features.metric] = frechet_distance(made, original)
        return drop_nan(metrics)
