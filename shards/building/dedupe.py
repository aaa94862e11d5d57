"""Exact and near duplicates among the pages of one template.

Two pages are near-duplicates if they have about the same proportions, and the mean difference of
their low-resolution depth rasters is below a small share of the structure that they show.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from PIL import Image

from shards.format.layout import MAX_DEPTH, Layout

ROWS, COLUMNS = 64, 16  # of the raster: pages are tall, and most elements wider than high
CELLS = ROWS * COLUMNS
UNIT = 1024  # integer value of one layer of depth in the raster
LARGEST_DIFFERENCE = 0.05  # layers; mean over the page
# Share of the page's mean depth above its shallowest cell, its "structure". Pages that show little,
# such as login forms, need this tighter limit.
LARGEST_SHARE = 0.02
SAME_PROPORTIONS = 1.02  # largest ratio of the heights at equal width

_COVERAGE = 256  # steps of a cell's coverage along one axis
_BLOCKS = (4, ROWS // 4, 4, COLUMNS // 4)  # reshapes a raster to 4 x 4 blocks of cells


def signature_of_layout(layout: Layout) -> np.ndarray:
    """Return the mean depth in each cell of a raster over the page: uint16 (CELLS,), in 1 / UNIT.

    All sums are of whole numbers, so the result is the same on every machine.
    """
    boxes = layout.boxes.astype(np.float64)
    along_y = _coverage(boxes[:, 1::2] * (ROWS / layout.height), ROWS)
    along_x = _coverage(boxes[:, 0::2] * (COLUMNS / layout.width), COLUMNS)
    layers = (along_y.T @ along_x) * (UNIT / _COVERAGE**2)
    return np.minimum(layers, MAX_DEPTH * UNIT).astype(np.uint16).ravel()


def signature_of_picture(gray: np.ndarray) -> np.ndarray:
    """Return the same raster of a drawn wireframe, uint8 (H, W); white is `MAX_DEPTH` layers."""
    small = Image.fromarray(gray).resize((COLUMNS, ROWS), Image.Resampling.BOX)
    return (np.asarray(small, np.float64) * (MAX_DEPTH * UNIT / 255)).astype(np.uint16).ravel()


def _coverage(edges: np.ndarray, cells: int) -> np.ndarray:
    """Return how much of each cell each interval covers: (N, 2) to (N, cells), 0 to _COVERAGE."""
    cell = np.arange(cells)
    covered = np.minimum(edges[:, 1:], cell + 1) - np.maximum(edges[:, :1], cell)
    return (covered.clip(0, 1) * _COVERAGE).round()


@dataclass(frozen=True)
class Duplicate:
    """A pair of page numbers: `page` repeats `of`; `exact` if all pixels are equal."""

    page: int
    of: int
    exact: bool


def find_duplicates(
    families: Sequence[str],
    digests: Sequence[bytes],
    proportions: Sequence[float],
    signatures: Sequence[np.ndarray],
) -> Iterator[Duplicate]:
    """Yield the pages, in their order, that repeat an earlier page that was kept.

    families: template of each page; only pages of one family are compared.
    digests: hash of each drawn page; equal for exact duplicates.
    proportions: height / width of the canvas.
    signatures: rasters of the pages, uint16 (CELLS,) each; may be a memory-mapped (N, CELLS) array.

    Kept pages are put in a grid over mean depth and proportions. A near-duplicate can only be in a
    neighbouring cell, and a coarser raster excludes most of those, so the time is about linear.
    """
    known: dict[tuple[str, bytes], Duplicate] = {}  # result for a later page of the same picture
    grid: dict[tuple, list[int]] = defaultdict(list)
    coarse = np.empty((len(families), _BLOCKS[0] * _BLOCKS[2]), np.int32)
    structure = np.empty(len(families), np.int64)
    for page, family in enumerate(families):
        same_picture = known.get((family, digests[page]))
        if same_picture is not None:
            yield replace(same_picture, page=page)
            continue
        raster = signatures[page].astype(np.int32)
        coarse[page] = raster.reshape(_BLOCKS).sum(axis=(1, 3)).ravel()
        structure[page] = raster.sum() - CELLS * raster.min()
        column = math.floor(raster.sum() / (CELLS * UNIT * LARGEST_DIFFERENCE))
        row = math.floor(math.log(proportions[page]) / math.log(SAME_PROPORTIONS))
        near = [
            other
            for step in product((-1, 0, 1), repeat=2)
            for other in grid.get((family, column + step[0], row + step[1]), ())
        ]
        original = _first_match(
            raster, page, np.array(near, np.int64), coarse, structure, signatures
        )
        if original is None:
            grid[family, column, row].append(page)
            known[family, digests[page]] = Duplicate(page, page, exact=True)
        else:
            known[family, digests[page]] = Duplicate(page, original, exact=False)
            yield known[family, digests[page]]


def _first_match(
    raster: np.ndarray,
    page: int,
    others: np.ndarray,
    coarse: np.ndarray,
    structure: np.ndarray,
    signatures: Sequence[np.ndarray],
) -> int | None:
    """Return the first of the other pages that this page is a near-duplicate of, or None."""
    share = np.maximum(structure[others], structure[page]) * LARGEST_SHARE
    limits = np.minimum(share, LARGEST_DIFFERENCE * UNIT * CELLS)
    # Differences of block sums never exceed the differences of their cells, so this loses no match.
    possible = np.abs(coarse[others] - coarse[page]).sum(axis=1) <= limits
    for other, limit in sorted(zip(others[possible], limits[possible], strict=True)):
        if np.abs(signatures[other].astype(np.int32) - raster).sum() <= limit:
            return int(other)
    return None
