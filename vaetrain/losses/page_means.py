"""Means over the valid rows of each page."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of (B, 1, H, W) over each page's first `rows` rows: (B,); 0 for no rows.

    Values below these rows are ignored, nan and infinity included.
    """
    sums = values.sum(dim=(1, 3))
    padding = torch.arange(values.shape[2], device=rows.device) >= rows[:, None]
    return sums.masked_fill(padding, 0).sum(dim=1) / (rows * values.shape[3]).clamp(min=1)


def zero_padded_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Return the mean of (B, H, W) over each page's first `rows` rows: (B,); 0 for no rows.

    Values below these rows must be 0.
    """
    return values.sum(dim=(1, 2)) / (rows * values.shape[2]).clamp(min=1)
