"""Maximum IoU of two layouts' boxes (Kikuchi et al. 2021, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def layout_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the similarity of two pages' boxes: from 0 to 1, and 1 only for equal boxes.

    Boxes are matched one to one so that the sum of the pairs' intersections over unions is maximal
    (Kuhn 1955). The sum is divided by the larger number of boxes, so that an unmatched box counts
    0. This is the maximum IoU of Kikuchi et al. 2021 with one kind of box, extended to pages with
    different numbers of boxes.

    Args:
        first, second: (n, 4) and (m, 4), x0, y0, x1, y1, of pages scaled to one width.
    """
    # A local import: training starts without scipy.optimize.
    from scipy.optimize import linear_sum_assignment

    if not len(first) or not len(second):
        return float(len(first) == len(second))
    corner = np.maximum(first[:, None, :2], second[:, :2])
    opposite = np.minimum(first[:, None, 2:], second[:, 2:])
    intersection = (opposite - corner).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    ious = intersection / (areas[0][:, None] + areas[1] - intersection)
    pairs = linear_sum_assignment(ious, maximize=True)
    return float(ious[pairs].sum() / max(len(first), len(second)))


def neighbour_iou(neighbours: Tensor, boxes: Sequence[np.ndarray]) -> Tensor:
    """Compute each page's mean `layout_iou` with its neighbours: float64 (N,), nan without any.

    Args:
        neighbours: Long (N, K), -1 for none.
        boxes: boxes of every page, (n, 4) each; see `layout_iou`.
    """
    means = []
    for page, row in enumerate(neighbours.tolist()):
        ious = [layout_iou(boxes[page], boxes[other]) for other in row if other >= 0]
        means.append(np.mean(ious) if ious else np.nan)
    return torch.tensor(means, dtype=torch.float64)
