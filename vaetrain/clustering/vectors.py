"""Embeddings of any number of pages, in files of which one at a time is in memory.

`embed_pages` writes them; a pass that was interrupted continues after the last whole file.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shards import cli
from shards.atomic_files import write_atomic, writing
from shards.errors import UserError
from vaetrain.data.loading import PageReader
from vaetrain.inference.embedding import features_of
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.model.embedding import NAME

PART = 4096  # pages of a file
STAMP = "embedding.json"  # of which shards and which model the files are


class Vectors:
    """Vectors float32 (N, E) in parts, which are arrays or NPY files.

    Attributes:
        shape: (N, E).
    """

    def __init__(self, parts: Sequence[np.ndarray | Path]) -> None:
        """Open the parts; raises UserError naming a damaged file."""
        self.parts = parts
        shapes = [_load(part, peek=True).shape for part in parts]
        self.firsts = np.cumsum([0] + [rows for rows, _ in shapes])
        self.shape = (int(self.firsts[-1]), shapes[0][1])

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the rows of each part."""
        for first, part in zip(self.firsts, self.parts, strict=False):
            yield int(first), _load(part)

    def rows(self, places: np.ndarray) -> np.ndarray:
        """Return some rows, float32 (M, E), in the order of `places`, int64 (M,)."""
        found = np.empty((len(places), self.shape[1]), np.float32)
        number = np.searchsorted(self.firsts, places, side="right") - 1
        for part in np.unique(number):
            here = number == part
            found[here] = _load(self.parts[part])[places[here] - self.firsts[part]]
        return found


def _load(part: np.ndarray | Path, *, peek: bool = False) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return part
    try:
        return np.load(part, mmap_mode="r" if peek else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{part}: is damaged; remove it, it is written again") from error


def embed_pages(trained: TrainedModel, data: PageReader, folder: Path) -> Vectors:
    """Embed all pages into files of a folder, in order of their sample ids.

    Files of the same model and shards are kept; others are removed. The embedding of a run that is
    not finished is fitted to at most `MAX_FITTED_PAGES` of the pages.

    Raises CannotWrite, and DamagedShards naming the damaged shard.
    """
    pages, model = data.select("all"), trained.model
    space, digests = trained.space_of(data), trained.digests()
    digests.pop("prior", None)
    stamp = {
        "embedding": NAME,
        "run": digests,
        "shards": data.index.header["table_sha256"],
        "pages": len(pages),
        "part": PART,
    }
    with writing(folder):
        _start(folder, stamp)
    paths = [folder / f"part-{first // PART:06}.npy" for first in range(0, len(pages), PART)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    done = len(pages) - sum(min(PART, len(pages) - number * PART) for number in missing)
    with cli.progress(total=len(pages), initial=done, desc="embedding", unit="page") as bar:
        for number in missing:
            first = number * PART
            batches = data.pages(pages.part(first, min(first + PART, len(pages))))
            features = features_of(model, _counted(batches, bar), trained.engine)
            content = io.BytesIO()
            np.save(content, features.vectors(space).float().numpy())
            with writing(paths[number]):
                write_atomic(paths[number], content.getvalue())
    return Vectors(paths)


def _counted(batches: Iterator, bar) -> Iterator:
    for batch in batches:
        yield batch
        bar.update(0 if batch is None else len(batch))


def _start(folder: Path, stamp: dict) -> None:
    """Make the folder one of files of `stamp`; remove files of another."""
    path = folder / STAMP
    if path.exists() and path.read_bytes() == json.dumps(stamp).encode():
        return
    if path.exists() or not folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    elif any(folder.iterdir()):
        raise UserError(f"{folder}: holds other files; name another folder in --out")
    write_atomic(path, json.dumps(stamp))
