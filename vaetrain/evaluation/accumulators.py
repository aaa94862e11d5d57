"""Running means and moments over pages, in float64, so that no page has to be kept.

Each rank updates its own accumulator. Reducing one is collective, and its result is the same for
any number of ranks up to the rounding of float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaetrain.engines.collectives import Collectives


class MeanAccumulator:
    """Means of columns over pages; each column may exclude pages of its own."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, columns, dtype=torch.float64, device=device)

    def update(self, values: Tensor, counted: Tensor | None = None) -> None:
        """Add the pages of a batch.

        Args:
            values: (B, columns).
            counted: bool (B, columns), False for excluded values, which may be nan; None: all True.
        """
        if counted is None:
            counted = torch.ones_like(values, dtype=torch.bool)
        self.sums[0] += values.double().where(counted, 0.0).sum(dim=0)
        self.sums[1] += counted.sum(dim=0)

    def means(self, engine: Collectives) -> Tensor:
        """Return the means over the pages of all ranks. Collective.

        Returns: float64 (columns,) on the host, nan for a column without a counted page.
        """
        total, count = engine.sum(self.sums).cpu()
        return total / count


@dataclass(frozen=True)
class Moments:
    """Number of pages, mean (D,) and covariance (D, D) with N in the denominator, float64."""

    count: int
    mean: Tensor
    covariance: Tensor


class MomentAccumulator:
    """Mean and covariance of vectors over pages.

    Products are of differences from the mean, and parts are merged as in Chan et al. 1983. Sums of
    plain squares would lose the variance of dimensions whose mean is large.
    """

    def __init__(self, dimensions: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self.products = self.mean.new_zeros(dimensions, dimensions)

    def update(self, vectors: Tensor) -> None:
        """Add the pages of a batch, (B, D), B at least 1."""
        vectors = vectors.double()
        total = self.count + len(vectors)
        mean = vectors.mean(dim=0)
        centred = vectors - mean
        shift = mean - self.mean
        self.products.addmm_(centred.T, centred)
        self.products.addr_(shift, shift, alpha=self.count * len(vectors) / total)
        self.mean += shift * (len(vectors) / total)
        self.count = total

    def moments(self, engine: Collectives) -> Moments:
        """Return the moments over the pages of all ranks, on the host. Collective."""
        count = torch.tensor(self.count, device=self.mean.device)
        total = engine.sum(count)
        mean = engine.sum(self.mean * self.count) / total
        shift = self.mean - mean
        products = engine.sum(torch.addr(self.products, shift, shift, alpha=self.count))
        return Moments(int(total), mean.cpu(), (products / total).cpu())
