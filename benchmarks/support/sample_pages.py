"""Pages of the built-in sample: layouts, shards, PNG files, and batches read as in training."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.png import encode_png
from shards.reading.batch import Batch
from shards.reading.collator import Collator
from shards.reading.reader_processes import read_batches

SAMPLE = Path(__file__).resolve().parents[2] / "shards" / "sample"


class ShardBatches(Dataset):
    """Given batches of sample ids, read from shards as the trainer reads them."""

    def __init__(self, collator: Collator, ids: Sequence[np.ndarray]) -> None:
        self.collator = collator
        self.ids = ids

    def __getitem__(self, number: int) -> Batch:
        ids = self.ids[number]
        return self.collator.batch(ids, np.zeros_like(ids), training=False)

    def one_pass(self) -> Iterable[Batch]:
        """Return all batches in order."""
        return read_batches(self, range(len(self.ids)), workers=0, prefetch=0)


def sample_lines() -> list[bytes]:
    """Return the layouts of the built-in sample, one line of JSON each."""
    (source,) = SAMPLE.glob("*.jsonl.gz")
    return gzip.decompress(source.read_bytes()).splitlines(keepends=True)


def build_shards(lines: Iterable[bytes], folder: Path) -> Path:
    """Build shards of training pages from lines of JSON, and return their folder.

    Duplicates are kept, so that there is one page a line. The lines are written beside `folder`.
    """
    source = folder.with_suffix(".jsonl")
    source.write_bytes(b"".join(lines))
    build([source], folder, BuildOptions(workers=1, val_fraction=0.0, keep_duplicates=True))
    return folder


def write_pictures(batches: Iterable[Batch], folder: Path) -> list[Path]:
    """Write the pages of batches as 8-bit grey PNGs without padding; return the files in order."""
    folder.mkdir()
    files = []
    for batch in batches:
        grey = batch.images().mul(255).round().byte().numpy()
        for page, height in zip(grey[:, 0], batch.heights.tolist(), strict=True):
            files.append(folder / f"{len(files):06}.png")
            files[-1].write_bytes(encode_png(page[:height]))
    return files
