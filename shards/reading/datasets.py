"""Datasets of micro batches by number, for training and for evaluation.

The micro batches of a rank are numbered from the start of training, and batch k is a pure function
of k. To resume, training continues with another number; no reader state is saved.
"""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from shards.format.index import Index
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection


class TrainingDataset(Dataset):
    """Micro batches of one rank, by number, from the endless training sequence."""

    def __init__(
        self,
        order: SampleOrder,
        collator: Collator,
        *,
        rank: int,
        world_size: int,
        micro_batch_size: int,
        machine: range | None = None,
        stop: int | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            machine: ranks that share the cache of this machine, so that they fetch the same shards
                ahead; default: only this rank.
            stop: step before which training ends, so that nothing is fetched ahead for later ones.
        """
        self.order = order
        self.collator = collator
        self.team = order.team(rank, world_size)
        self.fetched = order.partitions_of(machine or range(rank, rank + 1), world_size)
        self.stop = stop
        self.micro_batch_size = micro_batch_size
        self.accumulation = order.global_batch_size // (world_size * micro_batch_size)
        self._window: tuple[int, int] | None = None
        self._step: tuple[int, np.ndarray, np.ndarray] | None = None

    def __getitem__(self, number: int) -> Batch:
        step, part = divmod(number, self.accumulation)
        if (window := self.order.window(step)) != self._window:
            self._window = window
            shards = self.order.shards_from(*window, self.fetched, self.stop)
            self.collator.files.prefetch(shards)
        if self._step is None or self._step[0] != step:
            self._step = (step, *self.order.step(step, self.team.partitions))
        _, ids, epochs = self._step
        # At each accumulation step all ranks get pages of similar height, so no rank is slower.
        first = (part * self.team.ranks + self.team.place) * self.micro_batch_size
        own = slice(first, first + self.micro_batch_size)
        return self.collator.training_batch(ids[own], epochs[own])


class EvaluationDataset(Dataset):
    """Batches of one rank, by number, from a selection; all ranks together read each sample once.

    All ranks have the same number of batches, the last of which may be empty (None); with fewer
    batches on one rank, collectives would hang.
    """

    def __init__(
        self,
        selection: Selection,
        collator: Collator,
        *,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 16,
    ) -> None:
        index, places = collator.files.index, np.arange(len(selection))
        ids = selection.ids_at(places)
        portions = _portions(index)[index.shards_of(ids)]
        self.ids = ids[np.lexsort((selection.heights_at(places), portions))]
        self.collator = collator
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.ids) // (self.batch_size * self.world_size))

    def __getitem__(self, number: int) -> Batch | None:
        first = (number * self.world_size + self.rank) * self.batch_size
        ids = self.ids[first : first + self.batch_size]
        if len(ids) == 0:
            return None
        return self.collator.batch(ids, np.zeros_like(ids), training=False)


def _portions(index: Index) -> np.ndarray:
    """Return the number of the portion, int64 (S,), of each shard; pages are sorted within one.

    All shards are one portion, unless they are fetched into a cache that is smaller than them.
    """
    ends = np.cumsum([shard.bytes for shard in index.shards])
    if index.cache is None or ends[-1] <= index.cache.options.bytes:
        return np.zeros_like(ends)
    # A portion fills half the cache; the next portion is fetched into the other half.
    return 2 * ends // index.cache.options.bytes
