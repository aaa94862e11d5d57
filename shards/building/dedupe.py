"""Exact and near duplicates among the pages of one template.

Two pages are near-duplicates if they have about the same proportions and their low-resolution depth
rasters differ by less, on average, than a small share of the structure that they show.
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

ROWS, COLUMNS = 64, 16  # of the raster: pages are tall, and an element is rather wide than high
CELLS = ROWS * COLUMNS
UNIT = 1024  # of the raster's integer values, per layer of depth
LARGEST_DIFFERENCE = 0.05  # layers, the mean over the page
LARGEST_SHARE = 0.02  # of the page's mean depth above its shallowest cell: a login form has little
SAME_PROPORTIONS = 1.02  # ratio of the heights at equal width

_COVERAGE = 256  # steps of a cell's coverage along one axis
_BLOCKS = (4, ROWS // 4, 4, COLUMNS // 4)


def signature_of_layout(layout: Layout) -> np.ndarray:
    """The mean depth in each cell of a raster laid over the page: uint16 (CELLS,), in 1 / UNIT.

    All sums are of whole numbers, so that it is the same on every machine.
    """
    boxes = layout.boxes.astype(np.float64)
    along_y = _coverage(boxes[:, 1::2] * (ROWS / layout.height), ROWS)
    along_x = _coverage(boxes[:, 0::2] * (COLUMNS / layout.width), COLUMNS)
    layers = (along_y.T @ along_x) * (UNIT / _COVERAGE**2)
    return np.minimum(layers, MAX_DEPTH * UNIT).astype(np.uint16).ravel()


def signature_of_picture(gray: np.ndarray) -> np.ndarray:
    """The same for a drawn wireframe, uint8 (H, W), white being `MAX_DEPTH` layers."""
    small = Image.fromarray(gray).resize((COLUMNS, ROWS), Image.Resampling.BOX)
    return (np.asarray(small, np.float64) * (MAX_DEPTH * UNIT / 255)).astype(np.uint16).ravel()


def _coverage(edges: np.ndarray, cells: int) -> np.ndarray:
    """Share of each cell that each interval covers: edges (N, 2) to (N, cells), 0 to _COVERAGE."""
    cell = np.arange(cells)
    covered = np.minimum(edges[:, 1:], cell + 1) - np.maximum(edges[:, :1], cell)
    return (covered.clip(0, 1) * _COVERAGE).round()


@dataclass(frozen=True)
class Duplicate:
    """Page number `page` repeats page number `of`, to the pixel if `exact`."""

    page: int
    of: int
    exact: bool


def find_duplicates(
    families: Sequence[str],
    digests: Sequence[bytes],
    proportions: Sequence[float],
    signatures: Sequence[np.ndarray],
) -> Iterator[Duplicate]:
    """Go through the pages in order and name those that repeat an earlier one that was kept.

    families: only pages of one family (a template) are compared.
    digests: of what makes up the picture; equal for exact duplicates.
    proportions: height / width of the canvas.
    signatures: of the pages, uint16 (CELLS,) each; may be a memory-mapped (N, CELLS) array.

    Kept pages lie in a grid over mean depth and proportions, where only the neighbouring cells can
    hold a near-duplicate, and of these a coarser raster rules out most: the time is about linear.
    """
    seen: dict[tuple[str, bytes], Duplicate] = {}  # what another page of this picture will be
    grid: dict[tuple, list[int]] = defaultdict(list)
    coarse = np.empty((len(families), _BLOCKS[0] * _BLOCKS[2]), np.int32)
    structure = np.empty(len(families), np.int64)
    for page, family in enumerate(families):
        known = seen.get((family, digests[page]))
        if known is not None:
            yield replace(known, page=page)
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
        found = _nearest(raster, page, np.array(near, np.int64), coarse, structure, signatures)
        if found is None:
            grid[family, column, row].append(page)
            seen[family, digests[page]] = Duplicate(page, page, exact=True)
        else:
            seen[family, digests[page]] = Duplicate(page, found, exact=False)
            yield seen[family, digests[page]]


def _nearest(
    raster: np.ndarray,
    page: int,
    others: np.ndarray,
    coarse: np.ndarray,
    structure: np.ndarray,
    signatures: Sequence[np.ndarray],
) -> int | None:
    """The first of the other pages that this one is a near-duplicate of."""
    share = np.maximum(structure[others], structure[page]) * LARGEST_SHARE
    limits = np.minimum(share, LARGEST_DIFFERENCE * UNIT * CELLS)
    # The sum of differences of block sums never exceeds that of the cells' own differences.
    possible = np.abs(coarse[others] - coarse[page]).sum(axis=1) <= limits
    for other, limit in sorted(zip(others[possible], limits[possible], strict=True)):
        if np.abs(signatures[other].astype(np.int32) - raster).sum() <= limit:
            return int(other)
    return None
