"""Selections of samples: the pages of one split, or a subset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from shards.format.index import Index
from shards.format.layout import scaled_height


def select(
    index: Index, split: str, *, width: int, max_height: int, val_templates: Sequence[str] = ()
) -> Selection:
    """Return the samples of `train`, `val` or `all`.

    If the shards have any of `val_templates`, the pages of these templates are `val` and all others
    are `train`; otherwise the split is that of the build.
    """
    ids: range | np.ndarray = index.ids(split)
    wanted = set(val_templates)
    named = [number for number, name in enumerate(index.templates) if name in wanted]
    if named and split != "all":
        is_val = np.isin(index.table["template"], named)
        ids = np.flatnonzero(is_val if split == "val" else ~is_val)
    firsts = np.array([shard.first for shard in index.shards] + [len(index)])
    starts = np.searchsorted(ids, firsts) if isinstance(ids, np.ndarray) else _clip(firsts, ids)
    return Selection(index.table, ids, np.unique(starts), width, max_height)


def _clip(firsts: np.ndarray, ids: range) -> np.ndarray:
    return np.clip(firsts, ids.start, ids.stop) - ids.start


THINNED_SHARDS = 64  # number of shards of a thinned selection; more if these have too few samples


@dataclass(frozen=True)
class Selection:
    """The samples of one split, cut by shard; the input of `SampleOrder`.

    No value is computed for all samples at once: with 10^8 samples the first batch would be late.

    Attributes:
        table: the index, one record per sample with its canvas' `width` and `height`.
        ids: ascending sample ids, a range or int64 (N,).
        starts: int64 (S + 1,), `ids[starts[s]:starts[s + 1]]` are the samples of the s-th shard.
        width: image width in pixels.
        max_height: rows kept of an image.
    """

    table: np.ndarray
    ids: range | np.ndarray
    starts: np.ndarray
    width: int
    max_height: int

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple:
        # Reader processes get the table's file name; pickling a memory map copies all its data.
        table = self.table
        if isinstance(table, np.memmap):
            table = partial(np.memmap, table.filename, table.dtype, "r")
        return _selection, (table, self.ids, self.starts, self.width, self.max_height)

    def ids_at(self, places: np.ndarray) -> np.ndarray:
        """Return the sample ids, int64 (M,), at these positions of the selection."""
        return places + self.ids.start if isinstance(self.ids, range) else self.ids[places]

    def part(self, first: int, stop: int) -> Selection:
        """Return the samples at the positions from `first` to before `stop`."""
        starts = np.unique(_clip(self.starts, range(first, stop)))
        return replace(self, ids=self.ids[first:stop], starts=starts)

    def thinned(self, limit: int) -> Selection:
        """Return at most `limit` of the samples, spread evenly over few shards.

        Few shards, because each one is fetched and verified completely, even for one sample.
        """
        if len(self) <= limit:
            return self
        count = len(self.starts) - 1
        wanted = max(THINNED_SHARDS, -(-limit * count // len(self)))
        shards = np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64)
        ends = np.cumsum(self.starts[shards + 1] - self.starts[shards])
        chosen = np.linspace(0, ends[-1] - 1, min(limit, ends[-1])).round().astype(np.int64)
        shard = np.searchsorted(ends, chosen, side="right")
        places = self.starts[shards[shard] + 1] - (ends[shard] - chosen)
        starts = np.searchsorted(places, self.starts)
        return replace(self, ids=self.ids_at(places), starts=np.unique(starts))

    def spaced(self, limit: int) -> Selection:
        """Return at most `limit` of the samples, evenly spaced over the whole selection.

        For pages that are read anyway, so their number of shards does not matter.
        """
        if len(self) <= limit:
            return self
        places = np.linspace(0, len(self) - 1, limit).round().astype(np.int64)
        starts = np.searchsorted(places, self.starts)
        return replace(self, ids=self.ids_at(places), starts=np.unique(starts))

    def heights_at(self, places: np.ndarray) -> np.ndarray:
        """Return the image rows, int64 (M,), of the samples at these positions of the selection."""
        records = self.table[self.ids_at(places)]
        heights = scaled_height(records["width"], records["height"], self.width)
        return np.minimum(heights, self.max_height)


def _selection(table: np.ndarray | Callable[[], np.ndarray], *rest: Any) -> Selection:
    return Selection(table() if callable(table) else table, *rest)
