"""An atlas of made-up pages, to measure the browser with many of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from shards.atomic_files import atomic_folder
from vaetrain.atlas_site.block_files import write_blocks
from vaetrain.atlas_site.build import PAGE, remove_latent
from vaetrain.atlas_site.clusters import Clusters
from vaetrain.atlas_site.map_files import write_map
from vaetrain.atlas_site.pages import Pages, thumbnail
from vaetrain.atlas_site.projection import NEIGHBOURS, Neighbours

HEAPS, PER_TEMPLATE, PICTURES = 20, 10, 64


class MadePages(Pages):
    """Made-up pages with `HEAPS` labels and templates of `PER_TEMPLATE` pages."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        names = [f"made-{number}" for number in range(-(-count // PER_TEMPLATE))]
        labels = [f"label {number}" for number in range(HEAPS)]
        super().__init__(
            data=SimpleNamespace(
                index=SimpleNamespace(rows=self._records, labels=labels, templates=names)
            ),
            ids=np.arange(count),
            heights=random.integers(40, 256, count).astype(np.int32),
            errors=random.gamma(4, 0.002, count).astype(np.float32),
            mu=np.zeros((count, 1), np.float32),
            vectors=np.zeros((count, 1), np.float32),
            _pictures=Path(),
            _places=np.zeros((0, 2), np.int64),
        )
        greys = random.integers(0, 160, (PICTURES, 24, 8), np.uint8)
        made = [np.kron(grey, np.ones((8, 8), np.uint8)) for grey in greys]
        self._made = [thumbnail(picture, 64) for picture in made]

    @staticmethod
    def _records(ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"label": ids % HEAPS, "template": ids // PER_TEMPLATE}

    def pictures(self, rows: slice) -> list[bytes]:
        """Return the thumbnails of consecutive pages."""
        return [self._made[row % PICTURES] for row in self._numbers(rows)]

    def names(self, rows: slice) -> tuple[list[str], list[str]]:
        """Return the keys and the own ids of consecutive pages."""
        names = [f"page-{row:08}" for row in self._numbers(rows)]
        return names, names

    def _numbers(self, rows: slice) -> Any:
        return range(*rows.indices(len(self)))


def write_made_atlas(count: int, out: Path) -> None:
    """Write an atlas of `count` made-up pages to a new folder."""
    random = np.random.default_rng(1)
    pages = MadePages(count)
    centres = random.normal(size=(HEAPS, 2)) * 6
    places = (centres[pages.ids % HEAPS] + random.normal(size=(count, 2))).astype(np.float32)
    rows = random.integers(0, count, (count, NEIGHBOURS), np.int32)
    distances = np.sort(random.random((count, NEIGHBOURS), np.float32))
    shown = (pages, places, Neighbours(rows, distances), Clusters())
    with atomic_folder(out) as draft:
        shutil.copytree(PAGE, draft, dirs_exist_ok=True)
        write_map(draft / "map", *shown, opens=False)
        write_blocks(draft / "pages", *shown, opens=False)
        remove_latent(draft)
