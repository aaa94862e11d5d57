"""Contact sheets of a trained model: samples, interpolations and reconstructions, not chosen."""

from __future__ import annotations

import numpy as np
import torch

from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.evaluation.path_smoothness import page_pairs
from vaetrain.inference.interpolation import interpolate_pages
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.page_pictures import contact_sheet, cut_pages

SAMPLES = 32
PAIRS = 8
STEPS = 6  # decoded pages of an interpolation
PAGES = 16  # reconstructed pages
LINE = 8  # pages in a line of samples


def contact_sheets(
    trained: TrainedModel, data: PageReader, pages: Selection
) -> dict[str, np.ndarray]:
    """Draw the sheets of a model; return grey pictures, uint8 (height, width), by name.

    - `samples`: the first samples of seed 0, as `vaetrain.sample` makes them.
    - `interpolations`: a line for each pair of pages: the first page, the decoded pages from its
      reconstruction to that of the second, and the second page.
    - `reconstructions`: pages evenly spaced by number, each beside its reconstruction; of a model
      with skip connections a third picture is decoded from the vector alone.

    Args:
        pages: those that are reconstructed and interpolated between. A single page has no pair.
    """
    samples = [page for batch in trained.sample(SAMPLES, None, 0) for page in cut_pages(*batch)]
    sheets = {
        "samples": contact_sheet(samples, LINE),
        "reconstructions": _reconstructions(trained, data, pages.spaced(PAGES)),
    }
    lines = []
    for pair in page_pairs(pages, PAIRS):
        lines += _interpolation(trained, [data.batch_of(one.numpy()) for one in pair[:, None]])
    if lines:
        sheets["interpolations"] = contact_sheet(lines, STEPS + 2)
    return sheets


def _interpolation(trained: TrainedModel, ends: list[Batch]) -> list[np.ndarray]:
    first, last = (cut_pages(end.images(), end.heights) for end in ends)
    decoded = interpolate_pages(trained, ends, STEPS)
    return first + [page for batch in decoded for page in cut_pages(*batch)] + last


def _reconstructions(trained: TrainedModel, data: PageReader, pages: Selection) -> np.ndarray:
    has_skips = trained.experiment.model.skips != "none"
    pictures = []
    for number in pages.ids_at(np.arange(len(pages))).tolist():
        page = data.batch_of(np.array([number])).to(trained.engine.device)
        made = [page.images(), trained.reconstruct(page)]
        if has_skips:
            made.append(trained.reconstruct(page, skips=False))
        pictures += cut_pages(torch.cat(made), page.heights.expand(len(made)))
    width = 2 + has_skips
    return contact_sheet(pictures, LINE // width * width)
