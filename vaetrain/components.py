"""The principal components of the training pages: where the model's linear path starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shards.reader import Batch
from vaetrain.engine import Engine
from vaetrain.model import VAE
from vaetrain.validation import for_each_page

if TYPE_CHECKING:  # which builds on the baselines, and they on what is here
    from vaetrain.data import TrainingData

PAGES = 4096  # that components are computed from, at most
COLUMNS = 4096  # cells that are made float64 at once
NEGLIGIBLE = 1e-6  # of the largest variance: rounding, or fewer pages than dimensions


def start_from_components(model: VAE, data: TrainingData, engine: Engine) -> None:
    """Set the model's linear path to the components of evenly chosen training pages. Collective."""

    def measure(batch: Batch) -> Tensor:
        return model.linear.coarse(batch.images())

    pages = data.pages(data.train.thinned(PAGES))
    _, _, table = for_each_page(measure, model.linear.to_mu.in_features, pages, engine)
    found = principal_components(table, model.latent_dim)
    # One rank's result for all: on another kind of machine the last digits may differ.
    model.start_from_components(*(engine.from_main(x.float().to(engine.device)) for x in found))


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
