"""Boxes that can be seen in the picture of a layout, and boxes that agree with others."""

from __future__ import annotations

import numpy as np

from shards.format.layout import Layout

TOLERANCE = 0.5  # px within which the edges of two boxes look alike
IOU = 0.9  # from which on two boxes agree


def visible_boxes(layout: Layout, width: int, rows: int) -> np.ndarray:
    """Return the boxes of a layout that can be seen in its picture: (N, 4) in px of the picture.

    A box is visible if it is at least a pixel wide and high; if along at least half of each of its
    sides the page is deeper half a pixel inside than half a pixel outside; and if it differs from
    every visible box before it in preorder, see `distinct`.

    Args:
        width: of the picture, px.
        rows: of the picture; the page is cut below them.
    """
    scale = layout.width / width
    height = min(layout.height, round(rows * scale))
    boxes = layout.boxes.astype(np.int64).clip(0, [layout.width, height] * 2)
    offset = max(1, round(scale / 2))
    depth = np.pad(_depth(boxes, height, layout.width), offset)
    seen = [
        box
        for box in boxes
        if min(box[2:] - box[:2]) >= scale and _has_visible_sides(depth, box + offset, offset)
    ]
    return distinct(np.array(seen).reshape(-1, 4) / scale)


def _depth(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the number of boxes around each pixel of the canvas, (height, width)."""
    corners = np.zeros((height + 1, width + 1), np.int32)
    for x, y, sign in ((0, 1, 1), (2, 1, -1), (0, 3, -1), (2, 3, 1)):
        np.add.at(corners, (boxes[:, y], boxes[:, x]), sign)
    return corners.cumsum(0).cumsum(1)[:-1, :-1]


def _has_visible_sides(depth: np.ndarray, box: np.ndarray, offset: int) -> bool:
    x0, y0, x1, y1 = box.tolist()
    inner_x, inner_y = min(offset - 1, x1 - x0 - 1), min(offset - 1, y1 - y0 - 1)
    sides = (
        (depth[y0:y1, x0 + inner_x], depth[y0:y1, x0 - offset]),
        (depth[y0:y1, x1 - 1 - inner_x], depth[y0:y1, x1 + offset - 1]),
        (depth[y0 + inner_y, x0:x1], depth[y0 - offset, x0:x1]),
        (depth[y1 - 1 - inner_y, x0:x1], depth[y1 + offset - 1, x0:x1]),
    )
    return all((inside > outside).mean() >= 0.5 for inside, outside in sides)


def distinct(boxes: np.ndarray) -> np.ndarray:
    """Return boxes (N, 4) without those whose edges lie within `TOLERANCE` of an earlier one's."""
    kept = np.empty((0, 4))
    for box in boxes:
        if not (np.abs(kept - box).max(axis=1) <= TOLERANCE).any():
            kept = np.concatenate([kept, box[None]])
    return kept


def agreeing(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many boxes can be paired one to one so that each pair has an IoU of `IOU`.

    Args:
        first, second: (n, 4) and (m, 4), x0, y0, x1, y1.
    """
    from scipy.optimize import linear_sum_assignment

    corner = np.maximum(first[:, None, :2], second[:, :2])
    opposite = np.minimum(first[:, None, 2:], second[:, 2:])
    shared = (opposite - corner).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    agree = shared >= IOU * (areas[0][:, None] + areas[1] - shared)
    return int(agree[linear_sum_assignment(agree, maximize=True)].sum())
