"""Order of the samples: the samples of each optimizer step.

The order is a pure function of the data, the seed and the global batch size. That of an epoch is
made in three stages: the shards are shuffled; the samples in a window of consecutive shards are
shuffled, so that a bounded cache of shards is enough; and within the window pages of similar height
are grouped, so that a batch has little padding. Global batches continue across the end of an epoch:
every step is full and every sample occurs exactly once per epoch. Ranks, reader processes and
accumulation only cut the samples of a step and do not change them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import numpy as np
import torch

from shards.randomness import sample_keys
from shards.reading.selection import Selection


class SampleOrder:
    """Endless sequence of global batches over a selection of samples."""

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
        make = partial(
            SampleOrder,
            seed=self.seed,
            global_batch_size=self.global_batch_size,
            window_shards=self.window_shards,
            ladder=self.ladder,
        )
        return make, (self.selection,)

    def step(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples of one optimizer step, in ascending order of height.

        Returns: ids int64 (G,) and the epoch of each, int64 (G,). A micro batch is a slice of
        these, so its pages are of similar height and it has little padding.
        """
        size = len(self.selection)
        position = number * self.global_batch_size
        end = position + self.global_batch_size
        places, epochs = [], []
        while position < end:
            epoch, start = divmod(position, size)
            stop = min(size, start + end - position)
            places.append(self._places(epoch, start, stop))
            epochs.append(np.full(stop - start, epoch, np.int64))
            position += stop - start
        place = np.concatenate(places)
        by_height = np.argsort(self.selection.heights_at(place), kind="stable")
        place = place[by_height]
        return self.selection.ids_at(place), np.concatenate(epochs)[by_height]

    def window(self, step: int) -> tuple[int, int]:
        """Return the epoch, and the number of its window, that a step begins in."""
        epoch, position = divmod(step * self.global_batch_size, len(self.selection))
        _, bounds = self._windows(epoch)
        return epoch, int(np.searchsorted(bounds, position, side="right")) - 1

    def shards_from(self, epoch: int, window: int) -> Iterator[int]:
        """Yield the first sample of each shard in the order of use from a window on, endlessly."""
        selection = self.selection
        while True:
            for shards in self._windows(epoch)[0][window:]:
                yield from selection.ids_at(selection.starts[shards]).tolist()
            epoch, window = epoch + 1, 0

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
