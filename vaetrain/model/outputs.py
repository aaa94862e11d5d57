"""Outputs of the decoder: what it adds to the coarse page, and how a page is decoded from it.

The loss and the page are functions of the same *logits*. A VAE-GAN therefore splits its graph at
the logits and decodes the page of each branch (`GanTrainer.fork`).
"""

from __future__ import annotations

import math
from itertools import accumulate
from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from shards.format.layout import MAX_DEPTH
from vaetrain.model.config import ModelConfig
from vaetrain.model.full_precision import widened
from vaetrain.model.masked import Rows, keep
from vaetrain.model.registry import OUTPUTS

LOGIT_EPS = 1 / 255  # the coarse page is clamped to [eps, 1 - eps] before its logits are taken
SHARPNESS = 2.0  # initial log odds of one level against its neighbour, at the coarse page's value
# Added to the probability of every level before the median is computed. Where two levels far apart
# share the probability, rounding errors would else decide between them.
MEDIAN_FLOOR = 1e-3
MEDIAN_SLOPE = 8.0  # of the decoded depth between two levels, see `flattened`


def build_output(config: ModelConfig) -> LinearOutput:
    """Build the output that `model.output` names."""
    return resolve_name(OUTPUTS[config.output])(config)


class LinearOutput(nn.Module):
    """The page is the sum of the coarse page and the decoder's values; it has no logits.

    Attributes:
        channels: values that the decoder has for each pixel.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = 1

    def forward(self, base: Tensor, added: Tensor) -> Tensor:
        """Return the logits, float32 (B, K, H, W); here the page itself.

        Args:
            base: the coarse page at full size, (B, 1, H, W).
            added: the decoder's values, (B, channels, H, W).
        """
        return widened(base) + widened(added)

    def page(self, logits: Tensor, rows: Rows) -> Tensor:
        """Decode logits to pages (B, 1, H, W), 0 below the pages.

        Args:
            logits: result of a call; of `LinearOutput` they are 0 below the pages.
            rows: valid rows of the pages.
        """
        return logits


class SigmoidOutput(LinearOutput):
    """The decoder's values are added to the coarse page's logits; the page is their sigmoid."""

    def forward(self, base: Tensor, added: Tensor) -> Tensor:
        """See `LinearOutput`; logits are (B, 1, H, W)."""
        return torch.logit(base.float().clamp(LOGIT_EPS, 1 - LOGIT_EPS)) + added

    def page(self, logits: Tensor, rows: Rows) -> Tensor:
        """See `LinearOutput`."""
        return keep(torch.sigmoid(logits), rows)


class LevelsOutput(LinearOutput):
    """A categorical distribution over the nesting depths 0, 1, ... K - 1 at every pixel.

    The decoder's values are added to the logits of the coarse page, `-sharpness * |40 v - k|` for
    its value v and level k, a discrete Laplace distribution. With an added 0 the decoded page is
    the coarse page, but for the rounding of values between two levels. The sharpness is learned.

    Attributes:
        channels: K.
        decode: `median` or `mean`, see `page`.
        log_sharpness: parameter (1,).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.channels, self.decode = config.levels, config.decode
        # Not a scalar: `fully_shard` refuses these.
        self.log_sharpness = nn.Parameter(torch.full((1,), math.log(SHARPNESS)))

    def forward(self, base: Tensor, added: Tensor) -> Tensor:
        """See `LinearOutput`; logits are (B, K, H, W)."""
        distance = (MAX_DEPTH * widened(base) - self._depths(base.device)).abs()
        return widened(added) - self.log_sharpness.exp() * distance

    def page(self, logits: Tensor, rows: Rows) -> Tensor:
        """Decode logits to the median or the mean of the depth, divided by 40.

        The median has the least expected L1, and is flat where pages are flat. Its own gradient is
        that of one or two levels and unbounded between two likely levels, so it has the gradient of
        the mean (a straight-through estimator, Bengio et al. 2013).
        """
        probabilities = logits.softmax(dim=1)
        depth = (probabilities * self._depths(logits.device)).sum(dim=1, keepdim=True)
        if self.decode == "median":
            depth = depth + (median_level(probabilities.detach()) - depth).detach()
        return keep(depth / MAX_DEPTH, rows)

    def _depths(self, device: torch.device) -> Tensor:
        return torch.arange(self.channels, dtype=torch.float32, device=device)[:, None, None]


def median_level(probabilities: Tensor) -> Tensor:
    """Return the decoded median of distributions over levels (B, K, H, W): (B, 1, H, W).

    The median of the distribution is one of the levels, so that pages are flat, but it jumps where
    two levels are equally likely, and rounding errors would decide there. So it is that of grouped
    data, which is continuous, and is then flattened near each level.
    """
    return flattened(grouped_median(probabilities))


def grouped_median(probabilities: Tensor) -> Tensor:
    """Return the median of grouped data, (B, 1, H, W) in [0, K - 1].

    The probability of a level k is taken to lie evenly between k - 1/2 and k + 1/2.
    """
    probabilities = probabilities + MEDIAN_FLOOR
    # On a CPU, torch's kernel for cumulative sums over channels takes five times as long.
    up_to = torch.stack(list(accumulate(probabilities.unbind(dim=1))), dim=1)
    half = 0.5 * up_to[:, -1:]
    # The share of each level's interval that lies below the median: 1, ..., 1, share, 0, ..., 0.
    shares = ((half - up_to) / probabilities + 1).clamp(0, 1)
    last = probabilities.shape[1] - 1
    return (shares.sum(dim=1, keepdim=True) - 0.5).clamp(0, last)


def flattened(depth: Tensor) -> Tensor:
    """Set depths near a whole level to the level; half-way between two levels nothing changes.

    The result is continuous: between two levels it is flat, then has slope `MEDIAN_SLOPE`, and is
    flat again.
    """
    level = depth.round()
    rest = depth - level
    excess = (rest.abs() - 0.5 * (1 - 1 / MEDIAN_SLOPE)).clamp(min=0)
    return level + rest.sign() * MEDIAN_SLOPE * excess
