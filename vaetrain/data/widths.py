"""Pages that the shards hold at two widths, for example as on a desktop and on a phone."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader

PAGE = ("template", "source", "url_path")  # metadata that the two widths of a page share
MAX_PAGES = 200_000  # whose metadata is read before a training; about 20 microseconds each


def other_widths(data: PageReader, ids: Tensor) -> Tensor:
    """Return the position of each page's other width among these pages: Long (N,), -1 for none.

    Two pages are one page at two widths if they have the same template, source and path, and
    another `viewport`. A page with a third width, or twice at one width, has no other width.

    Args:
        ids: Long (N,), sample ids.

    Raises DamagedShards naming the shard whose metadata cannot be read.
    """
    groups = defaultdict(list)
    for place, number in enumerate(ids.tolist()):
        meta = data.collator.files.metadata(number)
        if "viewport" in meta and "url_path" in meta:
            page = tuple(str(meta.get(name)) for name in PAGE)
            groups[page].append((meta["viewport"], place))
    others = torch.full((len(ids),), -1)
    for group in groups.values():
        if len(group) == 2 and group[0][0] != group[1][0]:
            first, second = group[0][1], group[1][1]
            others[first], others[second] = second, first
    return others


def read_other_widths(data: PageReader, pages: Selection) -> int:
    """Make the training batches of these pages hold the pages' other widths; return their number.

    The metadata of every page is read, so this is left out for more than `MAX_PAGES` pages and for
    shards on a server.
    """
    if len(pages) > MAX_PAGES or data.index.cache is not None:
        return 0
    ids = pages.ids_at(np.arange(len(pages)))
    places = other_widths(data, torch.from_numpy(ids)).numpy()
    others = np.arange(len(data.index))
    others[ids[places >= 0]] = ids[places[places >= 0]]
    data.collator.others = others
    return int((places >= 0).sum())
