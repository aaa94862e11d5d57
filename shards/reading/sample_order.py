"""Order of the samples: the samples of each optimizer step.

The order is a pure function of the data, the seed and the global batch size. That of an epoch is
made in three stages: the shards are shuffled; the samples in a window of consecutive shards are
shuffled, so that a bounded cache of shards is enough; and within the window pages of similar height
are grouped, so that a batch has little padding. Global batches continue across the end of an epoch:
every step is full and every sample occurs exactly once per epoch. Ranks, reader processes and
accumulation only cut the samples of a step and do not change them.

Here every rank uses samples of all shards; `partitioned_order.py` has an order in which a rank uses
a part of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from shards.randomness import sample_keys
from shards.reading.selection import Selection


@dataclass(frozen=True)
class Team:
    """The ranks that divide the samples of the same partitions among each other.

    Attributes:
        partitions: numbers of the partitions.
        ranks: number of ranks.
        place: number of this rank within the team.
    """

    partitions: range
    ranks: int
    place: int


class SampleOrder:
    """Endless sequence of global batches over a selection of samples.

    Attributes:
        partitions: number of parts of the sequence; here 1.
    """

    VERSION = 1  # saved in checkpoints: a run continues in the order that it was started with
    partitions = 1

    def __init__(
        self,
        selection: Selection,
        *,
        seed: int,
        global_batch_size: int,
        window_shards: int,
        ladder: np.ndarray,
    ) -> None:
        if len(selection) == 0:
            raise ValueError("the selection has no samples")
        self.selection = selection
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.window_shards = window_shards
        self.ladder = ladder
        # A step needs at most two windows of an epoch, and neighbouring steps need the same ones.
        self._window = lru_cache(maxsize=4)(self._draw_window)
        self._windows = lru_cache(maxsize=4)(self._draw_windows)

    def __reduce__(self) -> tuple:
        # The lru_caches cannot be pickled; they are cheap to fill again.
        return partial(type(self), **self._options()), (self.selection,)

    def _options(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "window_shards": self.window_shards,
            "ladder": self.ladder,
        }

    def team(self, rank: int, world_size: int) -> Team:
        """Return a rank's team: consecutive ranks, which have consecutive partitions."""
        teams = math.gcd(self.partitions, world_size)
        ranks, own = world_size // teams, self.partitions // teams
        number, place = divmod(rank, ranks)
        return Team(range(number * own, (number + 1) * own), ranks, place)

    def partitions_of(self, ranks: range, world_size: int) -> range:
        """Return the partitions of consecutive ranks, such as those of one machine."""
        first, last = (self.team(rank, world_size).partitions for rank in (ranks[0], ranks[-1]))
        return range(first.start, last.stop)

    def step(self, number: int, partitions: range | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples of one optimizer step, in ascending order of height.

        Args:
            partitions: those whose samples are wanted; default: all.

        Returns: ids int64 (N,) and the epoch of each, int64 (N,); N is the global batch size, or
        the partitions' share of it. A micro batch is a slice of these, so its pages are of similar
        height and it has little padding. Neighbours (2k, 2k + 1) are of one partition, so they are
        the same with other partitions beside them; only pairs are in ascending order.
        """
        partitions = range(self.partitions) if partitions is None else partitions
        found = [piece for each in partitions for piece in self._pieces(number, each)]
        place = np.concatenate([places for places, _ in found])
        epochs = np.repeat([epoch for _, epoch in found], [len(places) for places, _ in found])
        heights = self.selection.heights_at(place).reshape(len(partitions), -1)
        share = heights.shape[1]
        by_height = np.argsort(heights, axis=1, kind="stable")
        by_height += share * np.arange(len(partitions))[:, None]
        pairs = by_height.reshape(-1, 1 if share % 2 else 2)
        tallest = heights.ravel()[pairs[:, -1]]
        chosen = pairs[np.argsort(tallest, kind="stable")].ravel()
        return self.selection.ids_at(place[chosen]), epochs[chosen]

    def _pieces(self, number: int, partition: int) -> Iterator[tuple[np.ndarray, int]]:
        """Yield a partition's samples in a step, as indices into the selection, with the epoch."""
        size = len(self.selection)
        position = number * self.global_batch_size
        end = position + self.global_batch_size
        while position < end:
            epoch, start = divmod(position, size)
            stop = min(size, start + end - position)
            yield self._places(epoch, start, stop), epoch
            position += stop - start

    def window(self, step: int) -> tuple[int, int]:
        """Return the epoch, and the number of its window, that a step begins in."""
        epoch, position = divmod(step * self.global_batch_size, len(self.selection))
        _, bounds = self._windows(epoch)
        return epoch, int(np.searchsorted(bounds, position, side="right")) - 1

    def shards_from(
        self, epoch: int, window: int, partitions: range | None = None, stop: int | None = None
    ) -> Iterator[int]:
        """Yield the first sample of each shard in the order of use from a window on.

        Args:
            partitions: those whose shards are wanted; default: all.
            stop: end with the window that the step before this one begins in; default: never end.
        """
        partitions = range(self.partitions) if partitions is None else partitions
        selection, last = self.selection, None if stop is None else self.window(stop - 1)
        while True:
            for number, shards in enumerate(
                self._shards_by_window(epoch, window, partitions), start=window
            ):
                if last is not None and (epoch, number) > last:
                    return
                yield from selection.ids_at(selection.starts[shards]).tolist()
            epoch, window = epoch + 1, 0

    def shards_of_epoch(self, epoch: int, partitions: range) -> np.ndarray:
        """Return the shards that partitions use in an epoch, as positions in `selection.starts`."""
        return np.concatenate(self._windows(epoch)[0])

    def shards_at_once(self, partitions: range) -> int:
        """Return the number of shards that partitions use during a window, at most."""
        return min(len(self.selection.starts) - 1, self.window_shards)

    def _shards_by_window(self, epoch: int, window: int, partitions: range) -> Iterator[np.ndarray]:
        """Yield the shards that partitions use first in each window of an epoch, from one on."""
        yield from self._windows(epoch)[0][window:]

    def _places(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Return positions [start, stop) of an epoch as indices into the selection."""
        _, bounds = self._windows(epoch)
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        pieces = []
        while start < stop:
            end = min(stop, int(bounds[first + 1]))
            if end > start:
                window = self._window(epoch, first)
                pieces.append(window[start - int(bounds[first]) : end - int(bounds[first])])
            start = end
            first += 1
        return np.concatenate(pieces)

    def _draw_windows(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the shards of each window of an epoch, and the start position of each window."""
        starts = self.selection.starts
        shards = np.argsort(self._keys(epoch, np.arange(len(starts) - 1), "shard order"))
        windows = [
            shards[first : first + self.window_shards]
            for first in range(0, len(shards), self.window_shards)
        ]
        sizes = [int((starts[window + 1] - starts[window]).sum()) for window in windows]
        return windows, np.concatenate([[0], np.cumsum(sizes)])

    def _draw_window(self, epoch: int, number: int) -> np.ndarray:
        windows, bounds = self._windows(epoch)
        starts = self.selection.starts
        places = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in windows[number]])
        keys = self._keys(epoch, self.selection.ids_at(places), "sample order")
        bucket = np.searchsorted(self.ladder, self.selection.heights_at(places))
        by_height = places[np.lexsort((keys, bucket))]
        position = epoch * len(self.selection) + int(bounds[number])
        return self._shuffle_batches(by_height, epoch, position)

    def _shuffle_batches(self, by_height: np.ndarray, epoch: int, position: int) -> np.ndarray:
        """Cut samples sorted by height into global batches and shuffle these batches.

        `position` is the start of the window in the endless sequence. The first and last pieces are
        parts of global batches that are shared with the neighbouring windows.
        """
        step = self.global_batch_size
        first = min(-position % step, len(by_height))
        cuts = np.unique([0, *range(first, len(by_height), step), len(by_height)])
        sizes = np.diff(cuts)
        order = np.argsort(self._keys(epoch, position + cuts[:-1], "batch order"))
        ends = np.cumsum(sizes[order])
        shuffled = np.empty_like(by_height)
        for piece, end in zip(order, ends, strict=True):
            shuffled[cuts[piece] : cuts[piece + 1]] = by_height[end - sizes[piece] : end]
        return shuffled

    def _keys(self, epoch: int, numbers: np.ndarray, purpose: str) -> np.ndarray:
        numbers = torch.as_tensor(numbers, dtype=torch.int64)
        return sample_keys(self.seed, torch.tensor(epoch), numbers, purpose).numpy()
