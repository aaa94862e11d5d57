"""Perceptual distance between pages in the features of a frozen page encoder.

Feature maps are 0 below a page's rows, so padding does not contribute: the distance of two pages in
a padded batch is the distance of the two pages cropped to their rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaetrain.losses.page_means import zero_padded_mean
from vaetrain.model.encoder import Encoder
from vaetrain.model.masked import rows_at_strides
from vaetrain.model.registry import STRIDES

MIN_SQUARED_NORM = 1e-20  # added under a root, so that its gradient is finite for features of 0


class FeatureDistance(nn.Module):
    """Distance of two pages in the features of a page encoder.

    At each stage of the encoder the features at every position are scaled to length 1. Their
    squared differences are summed over channels and averaged over the page, which is LPIPS (Zhang
    et al. 2018, eq. 1) with all weights 1. The result is the mean over the stages.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, prediction: Tensor, target: Tensor, heights: Tensor) -> Tensor:
        """Compare images (B, 1, H, W) of Long (B,) valid rows: (B,)."""
        rows = rows_at_strides(heights, prediction.shape[2], STRIDES)
        with torch.autocast(prediction.device.type, enabled=False):
            predicted = self.encoder(prediction.float(), rows)
            expected = self.encoder(target.float(), rows)
        levels = [
            zero_padded_mean((unit_length(a) - unit_length(b)).square().sum(dim=1), of_map.count)
            for (a, of_map), (b, _) in zip(predicted, expected, strict=True)
        ]
        return torch.stack(levels).mean(dim=0)


def unit_length(x: Tensor) -> Tensor:
    """Scale features (B, C, H, W) to length 1 at every position, as LPIPS does."""
    return x / ((x.square().sum(dim=1, keepdim=True) + MIN_SQUARED_NORM).sqrt() + 1e-10)
