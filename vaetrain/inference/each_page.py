"""Evaluation of a function on every page, with the pages shared among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.engines.base import Engine


def for_each_page(
    measure: Callable[[Batch], Tensor],
    columns: int,
    batches: Iterable[Batch | None],
    engine: Engine,
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate a function on the batches of all ranks and gather the results. Collective.

    Args:
        measure: maps a batch on the device to float (B, columns).
        columns: number of values of each page.
        batches: this rank's batches, as many on every rank; None: a batch without pages.

    Returns: ids Long (N,) in ascending order, heights Long (N,) and values float64 (N, columns), on
        the host of every rank. They are identical to the bit for any number of ranks that pad the
        pages alike.
    """
    tables = []
    for batch in batches:
        rows = torch.empty(0, 2 + columns, dtype=torch.float64, device=engine.device)
        if batch is not None:
            batch = batch.to(engine.device)
            keys = torch.stack([batch.ids, batch.heights], 1).double()
            rows = torch.cat([keys, measure(batch).double()], 1)
        tables.append(rows)
    table = engine.gather_ragged(torch.cat(tables)).cpu()
    table = table[table[:, 0].argsort()]
    return table[:, 0].long(), table[:, 1].long(), table[:, 2:]
