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
from vaetrain.data.loading import EVALUATION_BATCH, PageReader
from vaetrain.engines.base import Engine
from vaetrain.evaluation.page_measurer import MeasuredPages, PageMeasurer
from vaetrain.evaluation.path_smoothness import page_pairs
from vaetrain.inference.interpolation import interpolate_latents, path_heights
from vaetrain.inference.prior_samples import draw_path
from vaetrain.model.layers import fit_rows
from vaetrain.model.masked import keep, rows_at
from vaetrain.model.vae import VAE
from vaetrain.prior.prior import Prior

STEPS = 3  # between the ends
PAIRS = 8  # of pages, during a training


@torch.no_grad()
def interpolation_blend_gap(
    model: VAE, data: PageReader, pages: Selection, engine: Engine, pairs: int = PAIRS
) -> dict[str, float]:
    """Measure how far the middle steps of interpolations are from a blend. Collective.

    They are measured as they are decoded: a detail differs from a blend on any path.

    Returns: `interpolation_blend_gap`: the mean absolute difference between a step and the pixel
        blend of the decoded ends, divided by that between the ends, on the rows that both ends
        have; ratio of the means over steps. Empty on all ranks but the main process, with fewer
        than two pages, and if all ends are alike.
    """
    values = torch.zeros(0, 2, dtype=torch.float64, device=engine.device)
    for pair in page_pairs(pages, pairs)[engine.rank :: engine.world_size]:
        ends = _read(data, pair, engine)
        path, heights = latent_path(model, ends)
        images = _decoded(model, None, path, heights, ends.size)
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
    model: VAE,
    prior: Prior | None,
    data: PageReader,
    pages: Selection,
    measurer: PageMeasurer,
    count: int,
) -> MeasuredPages | None:
    """Measure at most `count` middle steps of interpolations on the main process. Collective.

    They are those of `vaetrain.interpolate`, with the prior's detail if it has one.

    The steps of a pair of pages are one group of the two-sample test. None on the other ranks.
    """
    engine, keys, tables = measurer.engine, [], []
    pairs = page_pairs(pages, count // STEPS)
    # Several paths at a time: a detail takes nearly as long for three pages as for fifteen.
    parts = torch.arange(len(pairs)).split(EVALUATION_BATCH // STEPS)
    for numbers in parts[engine.rank :: engine.world_size]:
        ends = [_read(data, pair, engine) for pair in pairs[numbers]]
        size = max(each.size for each in ends)
        paths = [latent_path(model, each) for each in ends]
        path = torch.cat([_padded(z[1:-1], size[0] // model.stride) for z, _ in paths])
        heights = torch.cat([rows[1:-1] for _, rows in paths])
        images = _decoded(model, prior, path, heights, size)
        steps = (numbers[:, None] * STEPS + torch.arange(STEPS)).flatten()
        keys.append(torch.stack([steps.to(engine.device), heights], 1))
        tables.append(measurer.measure(images, heights))

    def groups(numbers: Tensor) -> np.ndarray:
        return np.array([f"/pair {number // STEPS}" for number in numbers.tolist()])

    return measurer.gather(keys, tables, groups)


def latent_path(model: VAE, ends: Batch) -> tuple[Tensor, Tensor]:
    """Interpolate between two pages: latents (STEPS + 2, ...) and heights, Long (STEPS + 2,)."""
    mu = model.posterior(ends.images(), ends.heights).mu
    return interpolate_latents(mu, STEPS + 2), path_heights(ends.heights, STEPS + 2)


def _padded(path: Tensor, rows: int) -> Tensor:
    """Pad latents (S, D, h, w) to `rows`; vectors (S, D) stay."""
    return fit_rows(path, rows) if path.ndim == 4 else path


def _decoded(
    model: VAE, prior: Prior | None, path: Tensor, heights: Tensor, size: tuple[int, int]
) -> Tensor:
    """Return the pages of latents (S, 1, H, W), in [0, 1] and zero below the pages."""
    images = draw_path(model, prior, path, heights, size).clamp(0, 1)
    return keep(images, rows_at(heights, images.shape[2]))


def _read(data: PageReader, ids: Tensor, engine: Engine) -> Batch:
    engine.mark_progress("interpolating between pages")
    return data.batch_of(ids.numpy()).to(engine.device)
