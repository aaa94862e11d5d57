"""Interpolation between latents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shards.randomness import sample_keys
from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.evaluation.inference import TrainedModel
from vaetrain.losses import ssim


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points on the great circle between two latents, at linearly growing length.

    Args:
        start, end: (D,).

    Returns: (steps, D), from `start` to `end` (Shoemake 1985; White 2016, section 2.1). Where one
        is zero, or they lie in one direction or in opposite ones, no great circle is singled out:
        then along the straight line.
    """
    share = torch.linspace(0, 1, steps, device=start.device).unsqueeze(1)
    lengths = start.norm(), end.norm()
    angle = torch.arccos(torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    if min(lengths) == 0 or torch.sin(angle) < 1e-4:
        return torch.lerp(start, end, share)
    arc = torch.sin((1 - share) * angle) * start / lengths[0]
    arc = arc + torch.sin(share * angle) * end / lengths[1]
    return arc / torch.sin(angle) * torch.lerp(*lengths, share)


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
