"""What an evaluation measures beside a validation: what costs too much while training waits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from shards.draw import place
from shards.order import Selection
from shards.randomness import sample_keys
from shards.reader import Batch
from vaetrain import baselines, losses
from vaetrain.components import principal_coordinates
from vaetrain.data import BASELINE_PAGES, EVALUATION_BATCH, PageReader
from vaetrain.engine import Engine
from vaetrain.fid import build_features, frechet_distance
from vaetrain.masked import keep, rows_at
from vaetrain.perceptual import find_lpips
from vaetrain.pictures import slerp
from vaetrain.retrieval import (
    RETRIEVED,
    Names,
    label_metrics,
    nearest_of_other_templates,
    retrieval_iou,
)
from vaetrain.trained import TrainedModel
from vaetrain.validation import for_each_page, measured

PATHS = 64  # pairs of pages that are interpolated, at most
PATH_POINTS = 8
ASKED = 512  # pages whose retrieved boxes are compared, at most


class Retrieval:
    """Judges embeddings of some pages by what a search would find for each among the others."""

    def __init__(self, data: PageReader, pages: Selection, engine: Engine) -> None:
        """Read the pages' names and boxes; those of shards without boxes are not compared."""
        self.engine = engine
        self.ids = torch.from_numpy(pages.ids_at(np.arange(len(pages))))
        self.names = Names.of(data.index, self.ids)
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
        return measured(found)


@torch.no_grad()
def path_smoothness(trained: TrainedModel, data: PageReader, pages: Selection) -> dict[str, float]:
    """How evenly pictures change on the way from one page to another. Collective.

    At most `PATHS` pairs of pages are drawn, the same in every evaluation; a pair's way is that of
    `vaetrain.interpolate`: latents on the great circle (White 2016, section 2.1), heights on a
    line. SSIM compares consecutive pictures, on the rows that both have.

    Returns: `slerp_ssim_std` and `slerp_ssim_min`, the standard deviation (N in the denominator)
        and the minimum along a way, mean over the ways; nothing where there are no two pages.
    """
    engine = trained.engine
    ids = torch.from_numpy(pages.ids_at(np.arange(len(pages))))
    keys = sample_keys(0, torch.zeros_like(ids), ids, "paths")
    pairs = ids[keys.argsort()][: len(ids) // 2 * 2].view(-1, 2)[:PATHS]
    found = torch.zeros(0, 2, dtype=torch.float64, device=engine.device)
    for pair in pairs[engine.rank :: engine.world_size]:
        ends = [
            data.collator.batch(one.numpy(), np.zeros(1, np.int64), training=False)
            for one in pair[:, None]
        ]
        similarity = _path_ssim(trained, ends).double()
        way = torch.stack([similarity.std(correction=0), similarity.min()])
        found = torch.cat([found, way[None]])
    found = engine.gather_ragged(found)
    found = found[found.isfinite().all(dim=1)]
    if not len(found):
        return {}
    names = ("slerp_ssim_std", "slerp_ssim_min")
    return dict(zip(names, found.sort(dim=0).values.mean(dim=0).tolist(), strict=True))


def _path_ssim(trained: TrainedModel, ends: list[Batch]) -> Tensor:
    """SSIM of each picture on a way with the next: (PATH_POINTS - 1,)."""
    latents = trained.latents(ends)
    way = slerp(latents[0].flatten(), latents[1].flatten(), PATH_POINTS)
    first, last = (float(end.heights) for end in ends)
    heights = torch.linspace(first, last, PATH_POINTS).round().long().to(way.device)
    size = max(end.size for end in ends)
    made = trained.model.decode(way.view(-1, *latents.shape[1:]), heights, size).clamp(0, 1)
    common = torch.minimum(heights[:-1], heights[1:])
    return losses.ssim(made[:-1], made[1:], common)


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
