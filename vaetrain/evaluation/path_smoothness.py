"""Smoothness of interpolations between pages."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.inference.interpolation import slerp
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses import ssim

PATHS = 64  # pairs of pages that are interpolated, at most


PATH_POINTS = 8


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
    return ssim.ssim(made[:-1], made[1:], common)
