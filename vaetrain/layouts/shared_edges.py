"""Edges of nested boxes in one pixel, whose coverages a picture gives only as a sum.

Read level by level, the outer box seems to cover the pixel completely and the inner one the rest or
nothing. Most often the boxes have the same edge, as a child fills its parent. So the edges are set
to their mean, which draws the same pixel.
"""

from __future__ import annotations

import numpy as np


def merge_shared_edges(boxes: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Return the boxes, with edges of a box and its parent in one pixel set to their mean.

    Args:
        boxes: float (N, 4), x0, y0, x1, y1 in px, in preorder.
        parents: (N,), number of the box around each box; -1 for none.

    Edges that are all whole pixels stay as they are.
    """
    sides = [_merged(boxes[:, side], parents) for side in (0, 1)]
    sides += [-_merged(-boxes[:, side], parents) for side in (2, 3)]
    return np.stack(sides, axis=1)


def _merged(edges: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Return first edges (N,); each box joins the chain of its parent or starts another one."""
    count = len(edges)
    pixels = np.floor(edges)
    joins, successor = np.zeros(count, bool), np.full(count, -1)
    for box in range(count):
        parent = parents[box]
        if parent >= 0 and pixels[parent] <= edges[box] <= pixels[parent] + 1:
            joins[box], pixels[box] = True, pixels[parent]
            if successor[parent] < 0:
                successor[parent] = box
    merged, done = edges.copy(), np.zeros(count, bool)
    for box in range(count):
        if done[box]:
            continue
        chain = [box]
        while successor[chain[-1]] >= 0:
            chain.append(successor[chain[-1]])
        done[chain] = True
        if (edges[chain] == np.floor(edges[chain])).all():
            continue  # more likely drawn on whole pixels than two halves
        # Boxes around the chain have their final edges already; the sum stays as it is.
        total, above = edges[chain].sum(), box
        while joins[above]:
            above = parents[above]
            total += edges[above] - merged[above]
        merged[chain] = np.clip(total / len(chain), pixels[box], pixels[box] + 1)
    return merged
