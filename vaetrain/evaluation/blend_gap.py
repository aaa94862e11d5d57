"""Interpolations compared with pixel blends of their ends.

A decoder that cross-fades one page into another has learnt no path between designs: every step is a
blend of the ends, and the gap is 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.engines.base import Engine
from vaetrain.evaluation.page_measurer import MeasuredPages, PageMeasurer
from vaetrain.evaluation.path_smoothness import page_pairs
from vaetrain.inference.interpolation import interpolate_latents
from vaetrain.inference.prior_samples import path_noise
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.vae import VAE

STEPS = 3  # between the ends
PAIRS = 8  # of pages, during a training


@torch.no_grad()
def interpolation_blend_gap(
    model: VAE, data: PageReader, pages: Selection, engine: Engine, pairs: int = PAIRS
) -> dict[str, float]:
    """Measure how far the middle steps of interpolations are from a blend. Collective.

    Returns: `interpolation_blend_gap`: the mean absolute difference between a step and the pixel
        blend of the decoded ends, divided by that between the ends, on the rows that both ends
        have; ratio of the means over steps. Empty on all ranks but the main process, with fewer
        than two pages, and if all ends are alike.
    """
    values = torch.zeros(0, 2, dtype=torch.float64, device=engine.device)
    for pair in page_pairs(pages, pairs)[engine.rank :: engine.world_size]:
        images, heights = decoded_path(model, _read(data, pair, engine))
        share = torch.linspace(0, 1, len(images), device=engine.device)[1:-1, None, None, None]
        common = torch.minimum(heights[:1], heights[-1:]).expand(STEPS)
        steps, rows = images[1:-1], rows_at(common, images.shape[2])
        blend = torch.lerp(images[:1], images[-1:], share)
        pixels = common * images.shape[3]
        differences = [steps - blend, (images[:1] - images[-1:]).expand_as(steps)]
        sums = [keep(each.abs(), rows).sum(dim=(1, 2, 3)) / pixels for each in differences]
        values = torch.cat([values, torch.stack(sums, 1).double()])
    gathered = engine.gather_to_main(values)
    if gathered is None or not len(gathered):
        return {}
    # Sorted, so that the sums have the same order for any number of ranks.
    gap, ends = gathered.sort(dim=0).values.mean(dim=0).tolist()
    return {"interpolation_blend_gap": gap / ends} if ends > 0 else {}


@torch.no_grad()
def middle_steps(
    model: VAE, data: PageReader, pages: Selection, measurer: PageMeasurer, count: int
) -> MeasuredPages | None:
    """Measure at most `count` middle steps of interpolations on the main process. Collective.

    The steps of a pair of pages are one group of the two-sample test. None on the other ranks.
    """
    engine, keys, tables = measurer.engine, [], []
    pairs = page_pairs(pages, count // STEPS)
    for number in range(engine.rank, len(pairs), engine.world_size):
        images, heights = decoded_path(model, _read(data, pairs[number], engine))
        numbers = number * STEPS + torch.arange(STEPS, device=engine.device)
        keys.append(torch.stack([numbers, heights[1:-1]], 1))
        tables.append(measurer.measure(images[1:-1], heights[1:-1]))

    def groups(numbers: Tensor) -> np.ndarray:
        return np.array([f"/pair {number // STEPS}" for number in numbers.tolist()])

    return measurer.gather(keys, tables, groups)


def decoded_path(model: VAE, ends: Batch) -> tuple[Tensor, Tensor]:
    """Decode the interpolation between two pages, as `vaetrain.interpolate` does.

    Returns: images (STEPS + 2, 1, H, W) in [0, 1], zero below the pages, and their heights, Long.
    """
    mu = model.posterior(ends.images(), ends.heights).mu
    path = interpolate_latents(mu, STEPS + 2)
    share = torch.linspace(0, 1, STEPS + 2, device=mu.device)
    heights = torch.lerp(*ends.heights.float(), share).round().long()
    ladder = path_noise(model, len(path), ends.size)
    images = model.decode_padded(path, heights, ends.size, ladder).clamp(0, 1)
    return keep(images, rows_at(heights, images.shape[2])), heights


def _read(data: PageReader, ids: Tensor, engine: Engine) -> Batch:
    engine.mark_progress("interpolating between pages")
    return data.batch_of(ids.numpy()).to(engine.device)
