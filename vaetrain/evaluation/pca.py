"""The principal components of the training pages: where the model's linear path starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # which builds on the baselines, and they on what is here
    pass

COLUMNS = 4096  # cells that are made float64 at once
NEGLIGIBLE = 1e-6  # of the largest variance: rounding, or fewer pages than dimensions


def principal_components(table: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal component analysis (Pearson 1901) of the rows of a table.

    Args:
        table: float (N, cells); sums over cells are float64 in any case.
        count: components wanted; fewer come back where the pages do not span so many.

    Returns: the mean (cells,), orthonormal components (K, cells) with their largest entry positive,
        and the standard deviation (K,) along each, descending.
    """
    variance, vectors = torch.linalg.eigh(inner_products(table) / len(table))
    order = variance.argsort(descending=True)[:count]
    order = order[variance[order] > NEGLIGIBLE * variance.max()]
    deviations = variance[order].sqrt()
    mean = table.mean(dim=0, dtype=torch.float64).to(table.dtype)
    components = vectors[:, order].T.to(table.dtype) @ (table - mean)
    components /= (deviations * len(table) ** 0.5)[:, None]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return mean, components * largest.sign(), deviations


def principal_coordinates(table: Tensor) -> Tensor:
    """Vectors (N, N) with the distances that the rows of a table (N, cells) have from one another.

    Gower 1966; float64, whatever the table is, and turned so that the last dimension varies most.
    """
    variance, axes = torch.linalg.eigh(inner_products(table))
    return axes * variance.clamp(min=0).sqrt()


def inner_products(table: Tensor) -> Tensor:
    """Those of the rows of a table (N, cells), their mean taken off: float64 (N, N).

    With fewer pages than cells they are the smaller problem; few cells are float64 at once.
    """
    inner = table.new_zeros(len(table), len(table), dtype=torch.float64)
    for part in table.split(COLUMNS, dim=1):
        part = part.double()
        centred = part - part.mean(dim=0)
        inner.addmm_(centred, centred.T)
    return inner
