"""Order of the samples for many machines: every rank uses a part of the shards.

The shuffled shards of an epoch, as one sequence of samples, are cut into P partitions of equal
length. Of the endless sequence of samples, number T belongs to partition T mod P, so every global
batch has the same number of samples of each partition, also at the end of an epoch. P divides the
global batch and depends on nothing but the data and the global batch size. If P and the world size
have the divisor U, the ranks form U teams, each of which uses P / U consecutive partitions.

Every partition has its own shuffled windows, of about one shard. Within a window, samples are
sorted by height and cut into one piece per step. The pieces are shuffled in the same way in all
partitions, so in a step all partitions have samples of the same quantile of heights, and ranks have
equal work. Streaming of MosaicML has such partitions too, its canonical nodes, without heights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from shards.reading.sample_order import SampleOrder
from shards.reading.selection import Selection

MOST_PARTITIONS = 1536  # a multiple of both 384 and 512
# World sizes that partitions are to divide evenly over; all of them divide 1536.
WORLDS = tuple(size for power in range(9) for size in (1 << power, 3 << power) if size <= 384)
WORLDS += (512,)
# A machine uses parts of two shards at the ends of its partitions. With fewer shards, these cost
# more than a fifth of what it reads.
SHARDS_PER_MACHINE = 8
SHARDS_PER_PARTITION = 2  # a machine may have several partitions, which lie side by side
SAMPLES_PER_PARTITION = 1024  # fewer would be cut into quantiles of unequal heights
SAMPLES_PER_STEP = 4  # of a partition


def partition_count(shards: int, samples: int, global_batch_size: int) -> int:
    """Return the number of partitions for shards with so many samples; 1 for small data.

    Of the numbers within the limits it is the one that divides most evenly over `WORLDS` (those
    that may have it: divisors of the global batch size, with enough shards for each machine); of
    equal ones the largest. A partition has an even number of samples in a step, if possible, since
    pairs of samples stay together (`SampleOrder.step`).
    """
    if shards < 2 * SHARDS_PER_MACHINE:
        return 1
    limits = (
        *(MOST_PARTITIONS, shards // SHARDS_PER_PARTITION, samples // SAMPLES_PER_PARTITION),
        global_batch_size // SAMPLES_PER_STEP,
    )
    whole = global_batch_size if global_batch_size % 2 else global_batch_size // 2
    possible = [n for n in range(1, max(1, min(limits)) + 1) if whole % n == 0]
    worlds = [
        size
        for size in WORLDS
        if global_batch_size % size == 0 and size <= shards // SHARDS_PER_MACHINE
    ]

    def evenness(count: int) -> tuple[int, int]:
        return sum(math.gcd(count, size) * MOST_PARTITIONS // size for size in worlds), count

    return max(possible, key=evenness)


def build_order(selection: Selection, *, partitions: int | None = None, **options) -> SampleOrder:
    """Return the order of a selection.

    Args:
        partitions: their number; None: that of `partition_count`.
        options: those of `SampleOrder`.
    """
    if partitions is None:
        shards, batch = len(selection.starts) - 1, options["global_batch_size"]
        partitions = partition_count(shards, len(selection), batch)
    if partitions == 1:
        return SampleOrder(selection, **options)
    return PartitionedOrder(selection, partitions=partitions, **options)


def most_read(
    order: SampleOrder, sizes: np.ndarray, world_size: int, ranks_per_machine: int
) -> float:
    """Return what the machine that reads most in the first epoch reads, relative to its share.

    Its share is the size of all shards, divided by the number of machines.

    Args:
        sizes: of the shards, (S,).
    """
    read = []
    for first in range(0, world_size, ranks_per_machine):
        ranks = range(first, min(first + ranks_per_machine, world_size))
        shards = order.shards_of_epoch(0, order.partitions_of(ranks, world_size))
        read.append(int(sizes[shards].sum()))
    return max(read) * len(read) / int(sizes.sum())


@dataclass(frozen=True)
class Epoch:
    """Bounds of an epoch. A round is a sample of each partition; rounds count from the start.

    Attributes:
        shards: shuffled, positions in `Selection.starts`.
        bounds: start of each of these shards in the sequence of the epoch's samples, and the end.
        offsets: start of each partition in this sequence, and the end.
        first, last: the round of each partition's first sample, and the one after its last.
        borders: round at which each window starts, and the end.
    """

    shards: np.ndarray
    bounds: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    last: np.ndarray
    borders: np.ndarray


class PartitionedOrder(SampleOrder):
    """Endless sequence of global batches, each with the same number of samples per partition.

    Attributes:
        partitions: their number, which divides the global batch size.
        share: samples of a partition in a step.
    """

    VERSION = 2

    def __init__(self, selection: Selection, *, partitions: int, **options) -> None:
        super().__init__(selection, **options)
        if self.global_batch_size % partitions:
            raise ValueError(f"{partitions} partitions do not divide {self.global_batch_size}")
        self.partitions = partitions
        self.share = self.global_batch_size // partitions
        self._epoch = lru_cache(maxsize=4)(self._draw_epoch)
        # Neighbouring steps need the same window; a step needs two at the end of an epoch.
        self._rows_of_window = lru_cache(maxsize=2)(lambda _epoch, _window: {})

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"partitions": self.partitions}

    def window(self, step: int) -> tuple[int, int]:
        """Return the epoch, and the number of its window, that a step begins in."""
        epoch = step * self.global_batch_size // len(self.selection)
        borders = self._epoch(epoch).borders
        return epoch, int(np.searchsorted(borders, step * self.share, side="right")) - 1

    def shards_of_epoch(self, epoch: int, partitions: range) -> np.ndarray:
        """Return the shards that partitions use in an epoch, as positions in `selection.starts`."""
        drawn = self._epoch(epoch)
        start, stop = drawn.offsets[[partitions.start, partitions.stop]]
        return drawn.shards[_touched(drawn.bounds, start, stop)]

    def shards_at_once(self, partitions: range) -> int:
        """Return the number of shards that partitions use during a window, at most."""
        shards, windows = len(self.selection.starts) - 1, len(self._epoch(0).borders) - 1
        of_partition = math.ceil(shards / (self.partitions * windows)) + 1
        return min(shards, len(partitions) * of_partition)

    def _shards_by_window(self, epoch: int, window: int, partitions: range) -> Iterator[np.ndarray]:
        yielded: set[int] = set()
        for number in range(window, len(self._epoch(epoch).borders) - 1):
            cuts = [self._cut(epoch, number, partition)[1] for partition in partitions]
            # Consecutive windows share a shard, as do consecutive partitions.
            new = [shard for shard in np.concatenate(cuts).tolist() if shard not in yielded]
            yielded.update(new)
            yield np.array(list(dict.fromkeys(new)), np.int64)

    def _pieces(self, number: int, partition: int) -> Iterator[tuple[np.ndarray, int]]:
        at, end = number * self.share, (number + 1) * self.share
        while at < end:
            epoch = (at * self.partitions + partition) // len(self.selection)
            drawn = self._epoch(epoch)
            window = int(np.searchsorted(drawn.borders, at, side="right")) - 1
            start = max(int(drawn.first[partition]), int(drawn.borders[window]))
            stop = min(end, int(drawn.last[partition]), int(drawn.borders[window + 1]))
            yield self._rows(epoch, window, partition)[at - start : stop - start], epoch
            at = stop

    def _draw_epoch(self, epoch: int) -> Epoch:
        starts, size, count = self.selection.starts, len(self.selection), self.partitions
        shards = np.argsort(self._keys(epoch, np.arange(len(starts) - 1), "shard order"))
        bounds = np.concatenate([[0], np.cumsum(starts[shards + 1] - starts[shards])])
        numbers = np.arange(count)
        first = -((numbers - epoch * size) // count)
        last = -((numbers - (epoch + 1) * size) // count)
        offsets = np.concatenate([[0], np.cumsum(last - first)])
        begin, end = epoch * size // count, -(-(epoch + 1) * size // count)
        shards_of_window = max(1, self.window_shards // count)
        windows = max(1, round(len(shards) / count / shards_of_window))
        inner = begin + np.arange(1, windows) * (end - begin) // windows
        inner = -(-inner // self.share) * self.share  # a step of an epoch is in one window
        borders = np.unique([begin, *inner[inner < end], end])
        return Epoch(shards, bounds, offsets, first, last, borders)

    def _cut(self, epoch: int, window: int, partition: int) -> tuple[int, np.ndarray, int, int]:
        """Return the first shard's start, the shards, and the positions of a partition's window."""
        drawn = self._epoch(epoch)
        first, last = int(drawn.first[partition]), int(drawn.last[partition])
        low, high = max(first, int(drawn.borders[window])), min(last, drawn.borders[window + 1])
        start = int(drawn.offsets[partition]) + low - first
        stop = start + max(0, int(high) - low)
        touched = _touched(drawn.bounds, start, stop)
        return int(drawn.bounds[touched.start]), drawn.shards[touched], start, stop

    def _rows(self, epoch: int, window: int, partition: int) -> np.ndarray:
        """Return a partition's samples in a window, in order, as indices into the selection."""
        rows = self._rows_of_window(epoch, window)
        if partition not in rows:
            rows[partition] = self._draw_rows(epoch, window, partition)
        return rows[partition]

    def _draw_rows(self, epoch: int, window: int, partition: int) -> np.ndarray:
        origin, shards, start, stop = self._cut(epoch, window, partition)
        starts, found = self.selection.starts, [np.zeros(0, np.int64)]
        for shard in shards:  # the samples of a shard that is cut are divided at random
            places = np.arange(starts[shard], starts[shard + 1])
            keys = self._keys(epoch, self.selection.ids_at(places), "sample order")
            found.append(places[np.argsort(keys)])
        places = np.concatenate(found)[start - origin : stop - origin]
        keys = self._keys(epoch, self.selection.ids_at(places), "sample order")
        bucket = np.searchsorted(self.ladder, self.selection.heights_at(places))
        by_height = places[np.lexsort((keys, bucket))]
        return self._shuffle_pieces(by_height, epoch, window, partition)

    def _shuffle_pieces(
        self, by_height: np.ndarray, epoch: int, window: int, partition: int
    ) -> np.ndarray:
        """Cut samples sorted by height into one piece per step; shuffle as all partitions do."""
        drawn = self._epoch(epoch)
        low, high = int(drawn.borders[window]), int(drawn.borders[window + 1])
        steps = np.arange(low // self.share, -(-high // self.share))
        edges = np.append(steps, steps[-1] + 1) * self.share
        cuts = np.clip(edges, max(low, drawn.first[partition]), min(high, drawn.last[partition]))
        cuts, sizes = cuts - cuts[0], np.diff(cuts)
        order = np.argsort(self._keys(epoch, steps, "batch order"))
        ends = np.cumsum(sizes[order])
        shuffled = np.empty_like(by_height)
        for piece, end in zip(order, ends, strict=True):
            shuffled[cuts[piece] : cuts[piece + 1]] = by_height[end - sizes[piece] : end]
        return shuffled


def _touched(bounds: np.ndarray, start: int, stop: int) -> slice:
    """Return the slice of shards with samples from `start` to before `stop`."""
    first = int(np.searchsorted(bounds, start, side="right")) - 1
    return slice(first, max(first, int(np.searchsorted(bounds, stop, side="left"))))
