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
    *,
    to_main: bool = False,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Evaluate a function on the batches of all ranks and gather the results. Collective.

    Args:
        measure: maps a batch on the device to float (B, columns).
        columns: number of values of each page.
        batches: this rank's batches, as many on every rank; None: a batch without pages.
        to_main: gather on the main process alone; the other ranks return None.

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
    gather = engine.gather_to_main if to_main else engine.gather_ragged
    table = gather(torch.cat(tables))
    if table is None:
        return None
    table = table.cpu()
    table = table[table[:, 0].argsort()]
    return table[:, 0].long(), table[:, 1].long(), table[:, 2:]


def gather_pages(
    keys: list[Tensor], rows: list[Tensor], columns: int, engine: Engine
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Gather values of pages on the main process. Collective.

    Args:
        keys: of this rank's batches: Long (B, 2) each, ids and heights.
        rows: of the same batches: float32 (B, columns) each.

    Returns: ids Long (N,) in ascending order, heights Long (N,) and values float32 (N, columns), on
        the host of the main process; None on the other ranks.
    """
    no_keys = torch.empty(0, 2, dtype=torch.long, device=engine.device)
    keys = engine.gather_to_main(torch.cat([no_keys, *keys]))
    table = engine.gather_to_main(torch.cat([torch.empty(0, columns, device=engine.device), *rows]))
    if keys is None:
        return None
    keys, table = keys.cpu(), table.cpu()
    order = keys[:, 0].argsort()
    return keys[order, 0], keys[order, 1], table[order]
