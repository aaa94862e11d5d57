"""Boxes found in a picture of a page: nesting depth back to nested rectangles.

The depth of a pixel is the number of boxes around it, and of a pixel at an edge a sum of shares.
So the coverage of the pixels by boxes of level k is the depth minus k - 1, clipped to [0, 1], and
the sum of the coverages of all levels is the page. At each level the boxes are the connected
regions of covered pixels. A region that is no rectangle consists of boxes that touch or overlap; it
is cut into rectangles, so that drawing them gives the page again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.format.layout import MAX_DEPTH
from vaetrain.layouts.rectangles import Span, edges, split
from vaetrain.layouts.shared_edges import merge_shared_edges

MAX_BOXES = 2000  # of a page; the outer ones are kept
MIN_AREA = 1.0  # px; smaller boxes are specks
MIN_SIDE = 0.9  # px
# Coverage of the pixels of a region. On a sharp page the first finds gaps of a third of a pixel
# between boxes, the second boxes of one pixel whose coverage is divided between two. On a blurred
# page, which most models make, two thresholds would find rings of fog around every box.
SHARP, BLURRED = (0.85, 0.5), (0.5,)
_NEAR_LEVEL = 0.15  # levels
_SHARP_SHARE = 0.75  # share of the pixels of a sharp page that are so near to a whole level
_INSIDE = 0.9  # share of a box that must lie in its parent
_DECIMALS = 2  # of the edges, px


@dataclass(frozen=True)
class PageBoxes:
    """Boxes of a page in preorder.

    Attributes:
        boxes: float64 (N, 4), x0, y0, x1, y1 in px.
        levels: (N,), nesting depth by which a box was found, from 1.
        parents: (N,), number of the box around each box; -1 for none.
    """

    boxes: np.ndarray
    levels: np.ndarray
    parents: np.ndarray


def find_boxes(page: np.ndarray) -> PageBoxes:
    """Find the boxes of a page.

    Args:
        page: float (h, w), nesting depth / 40; values outside of [0, 1] are clipped, NaN is 0.

    Returns: at most `MAX_BOXES` boxes of at least `MIN_AREA` px and `MIN_SIDE` px wide and high.
    """
    depth = np.nan_to_num(page.astype(np.float64)).clip(0, 1) * MAX_DEPTH
    is_near = np.abs(depth - depth.round()) < _NEAR_LEVEL
    thresholds = SHARP if is_near.mean() >= _SHARP_SHARE else BLURRED
    count = int(np.ceil(depth.max() - (1 - thresholds[-1])))
    minimum = _least_pixels(depth, count, thresholds[0])
    levels, boxes = [], []
    for level in range(1, count + 1):
        cover = _coverage(depth, level)
        found = _boxes_of_level(cover, thresholds, minimum, MAX_BOXES - len(boxes))
        levels += [level] * len(found)
        boxes += found
    return _nested(np.array(boxes).reshape(-1, 4), np.array(levels, np.int64))


def _coverage(depth: np.ndarray, level: int) -> np.ndarray:
    """Return the share of each pixel that boxes of a level cover: (h + 4, w + 4), 0 around it."""
    return np.pad((depth - (level - 1)).clip(0, 1), 2)


def _least_pixels(depth: np.ndarray, count: int, threshold: float) -> int:
    """Return the number of pixels from which on there are at most `MAX_BOXES` regions."""
    from scipy import ndimage

    pixels = []
    for level in range(1, count + 1):
        labels, _ = ndimage.label(depth >= level - 1 + threshold)
        pixels.append(np.bincount(labels.ravel())[1:])
    largest = np.sort(np.concatenate([np.empty(0, np.int64), *pixels]))[::-1]
    return int(largest[MAX_BOXES]) + 1 if len(largest) > MAX_BOXES else 1


def _boxes_of_level(
    cover: np.ndarray, thresholds: tuple[float, ...], minimum: int, limit: int
) -> list[tuple[float, float, float, float]]:
    """Return at most `limit` boxes of one level, from the coverage of its pixels."""
    height, width = (side - 4 for side in cover.shape)
    found: list[tuple[float, float, float, float]] = []
    for threshold in thresholds:
        rest = cover - np.pad(draw_coverage(np.array(found).reshape(-1, 4), height, width), 2)
        for span in _rectangles(rest, threshold, minimum):
            x0, y0, x1, y1 = edges(rest, span, threshold)
            box = (
                round(max(x0, 0.0), _DECIMALS),
                round(max(y0, 0.0), _DECIMALS),
                round(min(x1, width), _DECIMALS),
                round(min(y1, height), _DECIMALS),
            )
            sides = box[2] - box[0], box[3] - box[1]
            if min(sides) >= MIN_SIDE and sides[0] * sides[1] >= MIN_AREA:
                found.append(box)
            if len(found) >= limit:
                return found[:limit]
    return found


def _rectangles(cover: np.ndarray, threshold: float, minimum: int) -> Iterator[Span]:
    """Yield rectangles of the connected regions with at least `minimum` pixels."""
    # A local import, as scipy takes a second.
    from scipy import ndimage

    labels, _ = ndimage.label(cover[2:-2, 2:-2] >= threshold)
    pixels = np.bincount(labels.ravel())
    pixels[0] = 0
    kept = pixels >= minimum
    labels = np.where(kept, kept.cumsum(), 0)[labels]
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        for top, bottom, left, right in split(labels[rows, columns] == number):
            y, x = rows.start, columns.start
            yield y + top, y + bottom, x + left, x + right


def draw_coverage(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the sum over boxes of the share of each pixel that a box covers: (h, w).

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in px.
    """
    columns, rows = (
        (
            np.minimum(boxes[:, last, None], np.arange(1, length + 1))
            - np.maximum(boxes[:, first, None], np.arange(length))
        ).clip(0)
        for first, last, length in ((0, 2, width), (1, 3, height))
    )
    return rows.T @ columns


def _nested(boxes: np.ndarray, levels: np.ndarray) -> PageBoxes:
    """Put boxes into their parents: of the boxes around them, the smallest of the deepest level."""
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    opposite = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (opposite - corner).clip(0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    is_parent = (shared >= _INSIDE * areas[:, None]) & (levels < levels[:, None])
    preference = np.where(is_parent, levels + 1 / (1 + areas), 0)
    parents = np.array([row.argmax() if row.any() else -1 for row in preference], np.int64)
    order = _preorder(boxes, parents)
    place = np.empty(len(boxes) + 1, np.int64)
    place[order], place[-1] = np.arange(len(boxes)), -1
    boxes, parents = boxes[order], place[parents[order]]
    boxes = merge_shared_edges(boxes, parents).round(_DECIMALS)
    return PageBoxes(boxes, levels[order], parents)


def _preorder(boxes: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Return the numbers of the boxes in preorder; those of one parent from top to bottom."""
    children: list[list[int]] = [[] for _ in range(len(boxes) + 1)]
    for number in np.lexsort((boxes[:, 0], boxes[:, 1]))[::-1]:
        children[parents[number]].append(int(number))
    order, stack = [], children[-1]
    while stack:
        number = stack.pop()
        order.append(number)
        stack += children[number]
    return np.array(order, np.int64)
