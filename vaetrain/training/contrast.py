"""Contrastive loss of a training step: views of all pages first, then their gradients.

A first pass without gradients encodes both views of every page of the global batch. The loss and
its gradients at the encodings are computed from the pages of all ranks and accumulation steps, so
the result does not depend on their numbers. The second pass, that of the other losses, applies each
page's gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.engines.base import Engine
from vaetrain.losses.contrastive import values_and_gradients
from vaetrain.training.step import Contrast, ForwardStep


@torch.no_grad()
def contrast_of_step(
    batches: Sequence[Batch], templates: Sequence[Tensor], forward: ForwardStep, engine: Engine
) -> list[Contrast]:
    """Return the contrastive losses of this rank's micro batches of one step. Collective.

    Args:
        batches: on the device, of equal size.
        templates: Long (B,) each, on the device; -1 for a page without a template.
    """
    own = [forward.views_of(batch) for batch in batches]
    rows = torch.cat(own, dim=1).double()
    columns = [torch.cat(list(templates)).double()[:, None], rows[0], rows[1]]
    every = engine.gather_equal(torch.cat(columns, dim=1))
    numbers, first, second = every.split([1, rows.shape[2], rows.shape[2]], dim=1)
    values, gradients = values_and_gradients(
        torch.stack([first, second]), numbers[:, 0].round().long()
    )
    start, results = engine.rank * rows.shape[1], []
    for batch in batches:
        part = slice(start, start + len(batch))
        results.append(Contrast(values[part], gradients[:, part]))
        start = part.stop
    return results
