"""What an evaluation measures beside a validation: what costs too much while training waits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from shards.reading.batch import Batch
from shards.reading.draw import place
from shards.reading.selection import Selection
from vaetrain.data.loading import EVALUATION_BATCH, PageReader
from vaetrain.engines.base import Engine
from vaetrain.evaluation import baselines
from vaetrain.evaluation.baselines import BASELINE_PAGES
from vaetrain.evaluation.fid import build_features, frechet_distance
from vaetrain.evaluation.pca import principal_coordinates
from vaetrain.evaluation.retrieval import (
    RETRIEVED,
    PageLabels,
    label_metrics,
    nearest_of_other_templates,
    retrieval_iou,
)
from vaetrain.evaluation.validation import drop_nan
from vaetrain.inference.each_page import for_each_page
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses.factory import find_lpips
from vaetrain.model.masked import keep, rows_at

ASKED = 512  # pages whose retrieved boxes are compared, at most


class Retrieval:
    """Judges embeddings of some pages by what a search would find for each among the others."""

    def __init__(self, data: PageReader, pages: Selection, engine: Engine) -> None:
        """Read the pages' names and boxes; those of shards without boxes are not compared."""
        self.engine = engine
        self.ids = torch.from_numpy(pages.ids_at(np.arange(len(pages))))
        self.names = PageLabels.from_index(data.index, self.ids)
        self.boxes = None
        if data.index.header["store"] != "png":
            self.boxes = [
                box for part in self.ids.split(EVALUATION_BATCH) for box in _boxes(data, part)
            ]

    def metrics(self, vectors: Tensor) -> dict[str, float]:
        """The metrics of one vector a page, (N, D) in order of ids. Collective.

        Returns: those of `label_metrics`, and `box_iou_at_10`: the mean over at most `ASKED` pages,
            evenly chosen, of the box-IoU (`layout_iou`) with the 10 nearest of other templates.
        """
        found = label_metrics(vectors, self.names)
        if self.boxes is None:
            return found
        neighbours = nearest_of_other_templates(vectors, self.names.templates, RETRIEVED)
        count = min(ASKED, len(self.ids))
        asked = torch.linspace(0, len(self.ids) - 1, count, dtype=torch.float64).round().long()
        others = torch.full_like(neighbours, -1)
        mine = asked[self.engine.rank :: self.engine.world_size]
        others[mine] = neighbours[mine]
        values = retrieval_iou(others, self.boxes)
        there = values.isfinite()
        sums = torch.stack([values[there].sum(), there.double().sum()]).to(self.engine.device)
        total, pages = self.engine.sum(sums).tolist()
        return found | ({"box_iou_at_10": total / pages} if pages else {})


def _boxes(data: PageReader, ids: Tensor) -> list[np.ndarray]:
    """Each page's boxes in pixels of the model's image, what lies outside of it cut off."""
    batch = data.collator.batch(ids.numpy(), np.zeros(len(ids), np.int64), training=False)
    placed = place(batch.boxes, batch.owner, batch.canvas, batch.tops, batch.size[1])
    placed[:, 0::2] = placed[:, 0::2].clamp(0, batch.size[1])
    placed[:, 1::2] = placed[:, 1::2].clamp(min=0).minimum(batch.heights[batch.owner, None])
    seen = (placed[:, 2:] > placed[:, :2]).all(dim=1)
    return [placed[seen & (batch.owner == page)].numpy() for page in range(len(ids))]


class NetworkMetrics:
    """Judges reconstructions of some pages by what networks see in them."""

    def __init__(self, trained: TrainedModel, data: PageReader, pages: Selection) -> None:
        """Load the networks; raises ConfigError where Inception's file is damaged."""
        self.engine, self.data, self.pages = trained.engine, data, pages
        self.features = build_features().to(self.engine.device)
        lpips = find_lpips(trained.experiment.loss)
        self.lpips = {} if lpips is None else {lpips[0]: lpips[1].to(self.engine.device)}

    @torch.no_grad()
    def metrics(self, reconstruct: Callable[[Batch], Tensor]) -> dict[str, float]:
        """The metrics of what reconstructs a batch's pages, (B, 1, H, W). Collective.

        Returns: `fid` of the reconstructions from the pages (or `fid_random`, see `build_features`)
            where there are two, and `lpips_<net>`, mean over pages, where its weights are there.
        """
        columns = self.features.columns

        def measure(batch: Batch) -> Tensor:
            page, heights = batch.images(), batch.heights
            made = keep(reconstruct(batch).clamp(0, 1), rows_at(heights, page.shape[2]))
            seen = [self.features(images, heights) for images in (page, made)]
            distances = [network(made, page, heights)[:, None] for network in self.lpips.values()]
            return torch.cat([*seen, *distances], 1)

        pages = self.data.pages(self.pages)
        _, _, table = for_each_page(measure, 2 * columns + len(self.lpips), pages, self.engine)
        theirs, ours, distances = table.split([columns, columns, len(self.lpips)], dim=1)
        found = dict(zip(self.lpips, distances.mean(dim=0).tolist(), strict=True))
        if len(table) > 1:
            found[self.features.metric] = frechet_distance(ours, theirs)
        return drop_nan(found)


def compare_with_baselines(
    trained: TrainedModel,
    data: PageReader,
    pages: Selection,
    training: PageReader,
    retrieval: Retrieval,
    networks: NetworkMetrics,
) -> dict[str, dict[str, float]]:
    """What a blank page, the mean page, PCA and the pixels themselves score. Collective.

    Mean and components, as many as the latent has dimensions, are those of the training pages, of
    at most `BASELINE_PAGES` evenly chosen ones.
    """
    engine, model = trained.engine, trained.model
    size = (int(data.ladder[-1]), data.config.width)
    known = training.select("train").thinned(BASELINE_PAGES)
    mean = baselines.mean_page(training.pages(known), engine, *size)
    pca = baselines.PagePCA(training.pages(known), engine, size, model.latent_dim)
    _, _, components = for_each_page(pca.embed, len(pca.components), data.pages(pages), engine)
    pixels = baselines.page_table(data.pages(pages), engine, size)
    if len(pixels) < pixels.shape[1]:
        pixels = principal_coordinates(pixels)

    def pictures(reconstruct: Callable[[Batch], Tensor]) -> dict[str, float]:
        score = baselines.score(reconstruct, data.pages(pages), engine)
        return score | networks.metrics(reconstruct)

    return {
        "blank page": pictures(baselines.one_page(torch.zeros_like(mean))),
        "mean page": pictures(baselines.one_page(mean)),
        "pca": pictures(pca.reconstruct) | retrieval.metrics(components),
        "pixels": retrieval.metrics(pixels.cpu()),
    }
