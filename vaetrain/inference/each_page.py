"""One computation for every page, shared by all ranks."""

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
    """Measure all pages of all ranks; every rank must have the same number of batches.

    Args:
        measure: a batch on the device to float (B, columns).

    Returns: ids Long (N,) in ascending order, heights Long (N,), measurements float64 (N, columns),
        the same bits for any number of ranks that pad alike.
    """
    tables = []
    for batch in batches:
        rows = torch.empty(0, 2 + columns, dtype=torch.float64, device=engine.device)
        if batch is not None:
            batch = batch.to(engine.device)
            named = torch.stack([batch.ids, batch.heights], 1).double()
            rows = torch.cat([named, measure(batch).double()], 1)
        tables.append(rows)
    table = engine.gather_ragged(torch.cat(tables)).cpu()
    table = table[table[:, 0].argsort()]
    return table[:, 0].long(), table[:, 1].long(), table[:, 2:]
