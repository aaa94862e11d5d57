"""Order of the samples for many machines: every rank reads a part of the shards.

The shuffled shards of an epoch, as one sequence of samples, are cut into P partitions of equal
length. Of the endless sequence of samples, number T belongs to partition T mod P, so every global
batch has the same number of samples of each partition, also at the end of an epoch. P divides the
global batch and depends on nothing but the data and the global batch size. If P and the world size
have the divisor U, the ranks form U teams, each of which reads P / U consecutive partitions.

Every partition has its own shuffled windows, of about one shard. Within a window, samples are
sorted by height and cut into one piece per step. The pieces are shuffled in the same way in all
partitions, so in a step all partitions give samples of the same quantile of heights, and ranks have
equal work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, partial

import numpy as np

from shards.reading.sample_order import SampleOrder

LARGEST = 1536  # partitions; a multiple of both 384 and 512
SHARDS = 8  # of a partition, at least: cutting a shard in two then costs less than an eighth


def partition_count(shards: int, global_batch_size: int) -> int:
    """Return the largest divisor of the global batch size that is within the limits."""
    limit = max(1, min(LARGEST, shards // SHARDS))
    return max(n for n in range(1, limit + 1) if global_batch_size % n == 0)


class PartitionedOrder(SampleOrder):
    """Endless sequence of global batches, each with the same number of samples per partition."""

    def __init__(self, selection, **options) -> None:
        super().__init__(selection, **options)
        self.partitions = partition_count(len(selection.starts) - 1, self.global_batch_size)
        self.share = self.global_batch_size // self.partitions  # samples of a partition in a step
        self._epoch = lru_cache(maxsize=4)(self._draw_epoch)
        self._rows = lru_cache(maxsize=4 * self.partitions)(self._draw_rows)

    def __reduce__(self) -> tuple:
        make = partial(
            PartitionedOrder,
            seed=self.seed,
            global_batch_size=self.global_batch_size,
            window_shards=self.window_shards,
            ladder=self.ladder,
        )
        return make, (self.selection,)

    def step(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples of one optimizer step; see `SampleOrder.step`."""
        return self._of_partitions(number, range(self.partitions))

    def team(self, rank: int, world_size: int) -> tuple[range, int, int]:
        """Return a rank's partitions, its number in its team, and the number of ranks in a team."""
        teams = math.gcd(self.partitions, world_size)
        ranks, own = world_size // teams, self.partitions // teams
        number = rank // ranks
        return range(number * own, (number + 1) * own), rank % ranks, ranks

    def team_step(self, number: int, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples of one optimizer step that a rank's team has; as `step` does."""
        return self._of_partitions(number, self.team(rank, world_size)[0])

    def shards_of(self, epoch: int, window: int, partitions: range) -> list[int]:
        """Return the shards that partitions need in a window, as positions in `starts`."""
        found: dict[int, None] = {}
        for partition in partitions:
            _, shards, _, _ = self._cut(epoch, window, partition)
            found.update(dict.fromkeys(shards.tolist()))
        return list(found)

    def windows(self, epoch: int) -> int:
        """Return the number of windows of an epoch."""
        return len(self._epoch(epoch)[3]) - 1

    def _of_partitions(self, number: int, partitions: range) -> tuple[np.ndarray, np.ndarray]:
        found = [piece for each in partitions for piece in self._pieces(number, each)]
        place = np.concatenate([place for place, _ in found])
        epochs = np.repeat([epoch for _, epoch in found], [len(place) for place, _ in found])
        by_height = np.argsort(self.selection.heights_at(place), kind="stable")
        return self.selection.ids_at(place[by_height]), epochs[by_height].astype(np.int64)

    def _pieces(self, number: int, partition: int) -> Iterator[tuple[np.ndarray, int]]:
        """Yield a partition's samples in a step, as indices into the selection, with the epoch."""
        at, end = number * self.share, (number + 1) * self.share
        while at < end:
            epoch = (at * self.partitions + partition) // len(self.selection)
            _, _, _, borders = self._epoch(epoch)
            first, last = self._rounds(epoch, partition)
            window = int(np.searchsorted(borders, at, side="right")) - 1
            stop = min(end, last, int(borders[window + 1]))
            start = max(first, int(borders[window]))
            yield self._rows(epoch, window, partition)[at - start : stop - start], epoch
            at = stop

    def _rounds(self, epoch: int, partition: int) -> tuple[int, int]:
        """Return the first round of an epoch in which a partition has a sample, and the end."""
        size = len(self.selection)
        first = -((partition - epoch * size) // self.partitions)
        return first, -((partition - (epoch + 1) * size) // self.partitions)

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, ...]:
        """Return shuffled shards, and bounds of these, of partitions and of windows (in rounds)."""
        starts, size = self.selection.starts, len(self.selection)
        shards = np.argsort(self._keys(epoch, np.arange(len(starts) - 1), "shard order"))
        bounds = np.concatenate([[0], np.cumsum(starts[shards + 1] - starts[shards])])
        counts = [
            last - first
            for first, last in map(partial(self._rounds, epoch), range(self.partitions))
        ]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        begin = epoch * size // self.partitions
        end = -(-(epoch + 1) * size // self.partitions)
        shards_of_window = max(1, self.window_shards // self.partitions)
        windows = max(1, round(len(shards) / self.partitions / shards_of_window))
        inner = begin + np.arange(1, windows) * (end - begin) // windows
        inner = -(-inner // self.share) * self.share  # a step is in one window
        borders = np.unique([begin, *inner[inner < end], end])
        return shards, bounds, offsets, borders

    def _cut(self, epoch: int, window: int, partition: int) -> tuple[int, np.ndarray, int, int]:
        """Return the first shard's start, the shards, and the positions of a partition's window."""
        shards, bounds, offsets, borders = self._epoch(epoch)
        first, last = self._rounds(epoch, partition)
        low, high = max(first, int(borders[window])), min(last, int(borders[window + 1]))
        start = int(offsets[partition]) + low - first
        stop = start + max(0, high - low)
        one = int(np.searchsorted(bounds, start, side="right")) - 1
        end = int(np.searchsorted(bounds, stop, side="left"))
        return int(bounds[one]), shards[one:end], start, stop

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
        borders = self._epoch(epoch)[3]
        first, last = self._rounds(epoch, partition)
        low, high = int(borders[window]), int(borders[window + 1])
        steps = np.arange(low // self.share, -(-high // self.share))
        edges = np.append(steps, steps[-1] + 1) * self.share
        cuts = np.clip(edges, max(low, first), min(high, last))
        cuts, sizes = cuts - cuts[0], np.diff(cuts)
        order = np.argsort(self._keys(epoch, steps, "batch order"))
        ends = np.cumsum(sizes[order])
        shuffled = np.empty_like(by_height)
        for piece, end in zip(order, ends, strict=True):
            shuffled[cuts[piece] : cuts[piece + 1]] = by_height[end - sizes[piece] : end]
        return shuffled
