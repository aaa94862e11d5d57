"""Smoothness of interpolations between pages."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.inference.interpolation import interpolate_latents, path_heights
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses import ssim

MAX_PATHS = 64  # interpolated pairs of pages
PATH_POINTS = 8


@torch.no_grad()
def path_smoothness(trained: TrainedModel, data: PageReader, pages: Selection) -> dict[str, float]:
    """Measure how evenly pictures change along interpolations between pages. Collective.

    At most `MAX_PATHS` pairs of pages are drawn, the same in every evaluation, and interpolated as
    `vaetrain.interpolate` does, but without the prior's detail. SSIM compares consecutive pictures
    on the rows that both have.

    Returns: `slerp_ssim_std` and `slerp_ssim_min`, the standard deviation (N in the denominator)
        and the minimum along a path, mean over paths; empty with fewer than two pages.
    """
    engine = trained.engine
    pairs = page_pairs(pages, MAX_PATHS)
    values = torch.zeros(0, 2, dtype=torch.float64, device=engine.device)
    for pair in pairs[engine.rank :: engine.world_size]:
        ends = [data.batch_of(one.numpy()) for one in pair[:, None]]
        similarity = _path_ssim(trained, ends).double()
        value = torch.stack([similarity.std(correction=0), similarity.min()])
        values = torch.cat([values, value[None]])
    values = engine.gather_ragged(values)
    values = values[values.isfinite().all(dim=1)]
    if not len(values):
        return {}
    names = ("slerp_ssim_std", "slerp_ssim_min")
    # Sorted, so that the sum has the same order for any number of ranks.
    return dict(zip(names, values.sort(dim=0).values.mean(dim=0).tolist(), strict=True))


def page_pairs(pages: Selection, limit: int) -> Tensor:
    """Draw at most `limit` pairs of pages, the same in every evaluation: ids, Long (pairs, 2)."""
    ids = torch.from_numpy(pages.ids_at(np.arange(len(pages))))
    keys = sample_keys(0, torch.zeros_like(ids), ids, "paths")
    return ids[keys.argsort()][: len(ids) // 2 * 2].view(-1, 2)[:limit]


def _path_ssim(trained: TrainedModel, ends: list[Batch]) -> Tensor:
    """Compute the SSIM of each picture on a path with the next: (PATH_POINTS - 1,)."""
    path = interpolate_latents(trained.latents(ends), PATH_POINTS)
    heights = path_heights(torch.cat([end.heights for end in ends]), PATH_POINTS).to(path.device)
    size = max(end.size for end in ends)
    made = trained.model.decode_padded(path, heights, size).clamp(0, 1)
    common = torch.minimum(heights[:-1], heights[1:])
    return ssim.ssim(made[:-1], made[1:], common)
