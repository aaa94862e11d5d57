"""Rectangles of a region of pixels: where it is cut, and where its edges lie within a pixel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Span = tuple[int, int, int, int]
"""First and last row, first and last column of a rectangle of pixels; the last is exclusive."""

_FULL = 0.97  # share of the pixels from which on a region is a rectangle
_RAGGED = 0.7  # share from which on a region with uneven edges is one, if no cut makes it fuller
_SAVED = 0.04  # a cut must save this share of the bounding rectangle
_MAX_CUTS = 64  # of a region; then a part is a rectangle if half of it is filled


def split(mask: np.ndarray) -> Iterator[Span]:
    """Cut a region into nearly full rectangles, as XY-cuts do (Nagy and Seth 1984).

    Every cut is the horizontal or vertical one whose two parts have the least area together, each
    with its own bounding rectangle; of several such cuts, the one with the shortest seam.

    Args:
        mask: bool (h, w), at least one pixel is set.

    Yields: the bounding rectangles of the parts. They do not overlap.
    """
    parts, cuts = [(0, mask.shape[0], 0, mask.shape[1])], 0
    while parts:
        top, bottom, left, right = parts.pop(0)
        part = mask[top:bottom, left:right]
        rows, columns = part.any(1).nonzero()[0], part.any(0).nonzero()[0]
        if len(rows) == 0:
            continue
        bottom, top = top + int(rows[-1]) + 1, top + int(rows[0])
        right, left = left + int(columns[-1]) + 1, left + int(columns[0])
        part = mask[top:bottom, left:right]
        share = part.mean()
        cut = None
        if share < _FULL and cuts < _MAX_CUTS:
            cut = _best_cut(part, share)
        if cut is None:
            if share >= 0.5:
                yield top, bottom, left, right
            continue
        axis, place = cut
        if axis == 0:
            halves = (top, top + place, left, right), (top + place, bottom, left, right)
        else:
            halves = (top, bottom, left, left + place), (top, bottom, left + place, right)
        parts += halves
        cuts += 1


def _best_cut(part: np.ndarray, share: float) -> tuple[int, int] | None:
    """Return axis and place of the best cut of a region that fills its bounding rectangle.

    None if the region is a rectangle with uneven edges.
    """
    best, jump = (np.inf, 0, 0), (-1.0, 0, 0)
    for axis, lines in ((0, part), (1, part.T)):
        length, across = lines.shape
        if length == 1:
            continue
        counts = lines.sum(1)
        first = np.where(counts > 0, lines.argmax(1), across)
        last = np.where(counts > 0, across - lines[:, ::-1].argmax(1), 0)
        before = np.maximum.accumulate(last) - np.minimum.accumulate(first)
        after = np.maximum.accumulate(last[::-1]) - np.minimum.accumulate(first[::-1])
        places = np.arange(1, length)
        areas = before[:-1] * places + after[-2::-1] * (length - places)
        seams = (lines[1:] & lines[:-1]).sum(1)
        scores = areas + seams / (1 + max(length, across))
        place = int(scores.argmin())
        best = min(best, (float(scores[place]), axis, place + 1))
        steps = np.abs(np.diff(counts)) / across
        jump = max(jump, (float(steps.max()), axis, int(steps.argmax()) + 1))
    if part.size - best[0] >= _SAVED * part.size:
        return best[1:]
    return None if share >= _RAGGED or jump[0] < 0 else jump[1:]


def edges(cover: np.ndarray, span: Span, threshold: float) -> tuple[float, float, float, float]:
    """Return the edges x0, y0, x1, y1 of a rectangle to a fraction of a pixel.

    A pixel that the edge crosses is covered in part. Uneven edges lie at the median of their rows
    or columns.

    Args:
        cover: float (h + 4, w + 4), the share of every pixel that is covered, with two pixels of 0
            around the page.
        span: rows and columns in the page.
        threshold: coverage of the pixels of a region.
    """
    top, bottom, left, right = span
    x0, x1 = _ends(cover[_inner(top, bottom), left : right + 4], threshold)
    y0, y1 = _ends(cover[top : bottom + 4, _inner(left, right)].T, threshold)
    return left + x0, top + y0, left + x1, top + y1


def _inner(first: int, last: int) -> slice:
    """Return a span without its first and last pixel, which may be covered in part."""
    return slice(first + 3, last + 1) if last - first > 2 else slice(first + 2, last + 2)


def _ends(rows: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return where the rectangle starts and ends in rows that hold two more pixels at each side.

    Args:
        rows: float (n, 2 + length + 2).

    Returns: medians over the rows, counted from the third pixel.
    """
    inside = rows[:, 2:-2]
    if inside.shape[1] > 2:
        # Of a box less than a pixel high or a blurred one, no pixel is covered completely.
        rows = rows / np.maximum(inside.max(1, keepdims=True), 1e-6)
        inside = rows[:, 2:-2]
    core = inside >= threshold
    line = np.arange(len(rows))
    first = core.argmax(1) + 2
    last = inside.shape[1] - 1 - core[:, ::-1].argmax(1) + 2
    before = _beyond(rows[line, first - 1], rows[line, first - 2], threshold)
    after = _beyond(rows[line, last + 1], rows[line, last + 2], threshold)
    start = first + 1 - rows[line, first] - before
    end = last + rows[line, last] + after
    # Of a single pixel it is unknown at which side it is not covered: at the side without any
    # coverage beyond.
    alone = first == last
    length = before + rows[line, first] + after
    start = np.where(
        alone, np.where(before >= after, first - before, last + 1 + after - length), start
    )
    end = np.where(alone, start + length, end)
    return float(np.median(start)) - 2, float(np.median(end)) - 2


def _beyond(next_one: np.ndarray, one_after: np.ndarray, threshold: float) -> np.ndarray:
    """Return the coverage of the pixel beyond an edge that belongs to the rectangle.

    None if it belongs to another part of the region; half if another region follows.
    """
    share = np.where(one_after >= threshold, 0.5, 1.0)
    return np.where(next_one >= threshold, 0.0, share * next_one)
