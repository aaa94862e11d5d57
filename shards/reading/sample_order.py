"""Which samples form which optimizer step: a pure function of the data, the seed and the batch.

The order of an epoch is drawn in three stages: the shards are shuffled; the samples inside a
window of consecutive shards are shuffled, so that a bounded cache of whole shards is enough; and
inside the window pages of like height are brought together, so that little of a batch is padding.
Global batches run on across the end of an epoch: every step is full and every sample comes exactly
once per epoch. Ranks, workers and accumulation only cut a step's samples; they never choose them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import numpy as np
import torch

from shards.randomness import sample_keys
from shards.reading.selection import Selection


class SampleOrder:
    """The endless sequence of global batches over a selection of samples."""

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
            raise ValueError("there are no samples to put in order")
        self.selection = selection
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.window_shards = window_shards
        self.ladder = ladder
        # A step touches at most two windows of an epoch; neighbouring steps touch the same ones.
        self._window = lru_cache(maxsize=4)(self._draw_window)
        self._windows = lru_cache(maxsize=4)(self._draw_windows)

    def __reduce__(self) -> tuple:
        # The caches stay here: they are cheap to fill and cannot be sent.
        make = partial(
            SampleOrder,
            seed=self.seed,
            global_batch_size=self.global_batch_size,
            window_shards=self.window_shards,
            ladder=self.ladder,
        )
        return make, (self.selection,)

    def step(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples of one optimizer step, in ascending order of height.

        Returns: ids int64 (G,) and the epoch each of them belongs to, int64 (G,). Neighbours in
        height stand next to each other, so a micro batch, a slice of the step, pads little.
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
        """The epoch, and the window of it, that a step begins in."""
        epoch, position = divmod(step * self.global_batch_size, len(self.selection))
        _, bounds = self._windows(epoch)
        return epoch, int(np.searchsorted(bounds, position, side="right")) - 1

    def shards_from(self, epoch: int, window: int) -> Iterator[int]:
        """The first sample of each shard, as shards are needed from a window on, without an end."""
        selection = self.selection
        while True:
            for shards in self._windows(epoch)[0][window:]:
                yield from selection.ids_at(selection.starts[shards]).tolist()
            epoch, window = epoch + 1, 0

    def _places(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Positions [start, stop) of an epoch, as indices into the selection."""
        _, bounds = self._windows(epoch)
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        pieces = []
        while start < stop:
            upto = min(stop, int(bounds[first + 1]))
            if upto > start:
                window = self._window(epoch, first)
                pieces.append(window[start - int(bounds[first]) : upto - int(bounds[first])])
            start = upto
            first += 1
        return np.concatenate(pieces)

    def _draw_windows(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The shards of each window of an epoch, and the position each window starts at."""
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
        alike = places[np.lexsort((keys, bucket))]
        return self._deal(alike, epoch, epoch * len(self.selection) + int(bounds[number]))

    def _deal(self, alike: np.ndarray, epoch: int, position: int) -> np.ndarray:
        """Cut samples sorted by height into global batches and shuffle these batches.

        `position` is where the window starts in the endless sequence: its first and last pieces
        are the parts of global batches it shares with its neighbours.
        """
        step = self.global_batch_size
        first = min(-position % step, len(alike))
        cuts = np.unique([0, *range(first, len(alike), step), len(alike)])
        sizes = np.diff(cuts)
        drawn = np.argsort(self._keys(epoch, position + cuts[:-1], "batch order"))
        ends = np.cumsum(sizes[drawn])
        dealt = np.empty_like(alike)
        for piece, end in zip(drawn, ends, strict=True):
            dealt[cuts[piece] : cuts[piece + 1]] = alike[end - sizes[piece] : end]
        return dealt

    def _keys(self, epoch: int, numbers: np.ndarray, purpose: str) -> np.ndarray:
        numbers = torch.as_tensor(numbers, dtype=torch.int64)
        return sample_keys(self.seed, torch.tensor(epoch), numbers, purpose).numpy()
