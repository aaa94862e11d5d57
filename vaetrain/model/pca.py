"""Principal component analysis of pages, for the linear path's start and for baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from vaetrain.engines.base import Engine
from vaetrain.engines.devices import machine_threads

COLUMNS = 4096  # cells converted to float64 at once, which bounds the memory
NEGLIGIBLE = 1e-6  # of the largest variance: rounding, or fewer pages than dimensions


def principal_components(table: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the principal components (Pearson 1901) of the rows of a table.

    Args:
        table: float (N, cells); sums over cells are float64 for any type.
        count: number of components; fewer are returned if the rows do not span as many.

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


def shared_principal_components(
    table: Tensor, count: int, engine: Engine
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `principal_components` on the main process and return them on all ranks. Collective.

    The other ranks would repeat a float64 `eigh` of up to 4096 x 4096, and on another kind of
    machine their last digits could differ. On CPUs the other ranks wait, so that the main process
    uses their cores as well.

    Returns: as `principal_components`, on the engine's device.
    """
    table = table.to(engine.device)
    parts = None
    if engine.is_main:
        threads = torch.get_num_threads()
        torch.set_num_threads(max(threads, machine_threads()))
        parts = [part.contiguous() for part in principal_components(table, count)]
        torch.set_num_threads(threads)
    if engine.world_size == 1:
        return tuple(parts)
    engine.mark_progress("waiting for the principal components of the main process")
    found = torch.tensor(len(parts[1]) if engine.is_main else 0, device=engine.device)
    found = int(engine.broadcast(found))
    if parts is None:
        mean = table.new_empty(table.shape[1])
        components = table.new_empty(found, table.shape[1])
        parts = [mean, components, table.new_empty(found, dtype=torch.float64)]
    return tuple(engine.broadcast(part) for part in parts)


def principal_coordinates(table: Tensor) -> Tensor:
    """Compute vectors (N, N) with the same pairwise distances as the rows of a table (N, cells).

    Principal coordinate analysis (Gower 1966), float64 for any type of table; the last dimension
    has the largest variance.
    """
    variance, axes = torch.linalg.eigh(inner_products(table))
    return axes * variance.clamp(min=0).sqrt()


def inner_products(table: Tensor) -> Tensor:
    """Compute the inner products of the centred rows of a table (N, cells): float64 (N, N).

    With fewer pages than cells this is smaller than the covariance of the cells. Cells are
    converted to float64 in blocks.
    """
    inner = table.new_zeros(len(table), len(table), dtype=torch.float64)
    for part in table.split(COLUMNS, dim=1):
        part = part.double()
        centred = part - part.mean(dim=0)
        inner.addmm_(centred, centred.T)
    return inner
