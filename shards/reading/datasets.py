"""Batches from shards on disk, in an exact order, read by worker processes.

A rank's micro batches are numbered from the start of training; number k is a pure function of k, so
resuming is starting to count elsewhere, and nothing has to be remembered or fast-forwarded.
"""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from shards.errors import DamagedShards
from shards.format.index import Index
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection


class TrainingDataset(Dataset):
    """This rank's micro batches of the endless training sequence, by number."""

    def __init__(
        self,
        order: SampleOrder,
        collator: Collator,
        *,
        rank: int,
        world_size: int,
        micro_batch_size: int,
    ) -> None:
        self.order = order
        self.collator = collator
        self.rank = rank
        self.world_size = world_size
        self.micro_batch_size = micro_batch_size
        self.accumulation = order.global_batch_size // (world_size * micro_batch_size)
        self._window: tuple[int, int] | None = None

    def __getitem__(self, number: int) -> Batch | DamagedShards:
        step, turn = divmod(number, self.accumulation)
        if (window := self.order.window(step)) != self._window:
            self._window = window
            self.collator.files.prefetch(self.order.shards_from(*window))
        ids, epochs = self.order.step(step)
        # All ranks work on neighbours in height at a time, so none waits for one with taller pages.
        first = (turn * self.world_size + self.rank) * self.micro_batch_size
        mine = slice(first, first + self.micro_batch_size)
        return _read(self.collator, ids[mine], epochs[mine], training=True)


class EvaluationDataset(Dataset):
    """This rank's batches of a selection, each sample once over all ranks, by number.

    Every rank has the same number of batches, the last of them maybe empty (None), so that no
    rank waits for another in a collective.
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

    def __getitem__(self, number: int) -> Batch | DamagedShards | None:
        first = (number * self.world_size + self.rank) * self.batch_size
        ids = self.ids[first : first + self.batch_size]
        if len(ids) == 0:
            return None
        return _read(self.collator, ids, np.zeros_like(ids), training=False)


def _portions(index: Index) -> np.ndarray:
    """The number, int64 (S,), of each shard's portion: pages of like height are found inside it.

    All shards are one portion, unless they are fetched into a cache that is smaller.
    """
    ends = np.cumsum([shard.bytes for shard in index.shards])
    if index.cache is None or ends[-1] <= index.cache.options.bytes:
        return np.zeros_like(ends)
    return 2 * ends // index.cache.options.bytes  # the next one needs room, too


def _read(collator: Collator, ids: np.ndarray, epochs: np.ndarray, *, training: bool):
    # A worker's exception reaches the trainer as a page of traceback; as a value it stays one line.
    try:
        return collator.batch(ids, epochs, training=training)
    except DamagedShards as error:
        return error
