"""Values of each page that the atlas shows: latent, embedding, error and picture.

Arrays lie in files of a temporary folder (memory maps), so that memory does not grow with their
size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vaetrain.data.loading import PageReader
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.losses.page_means import masked_mean
from vaetrain.model.embedding import EmbeddingSpace
from vaetrain.page_pictures import cut_pages

LONGEST_TEXT = 120  # characters of a shown id, label or template
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"  # is shown instead
GREYS = 16  # of a thumbnail: 4 bits


@dataclass
class Pages:
    """Pages of some shards in ascending order of their sample ids.

    Attributes:
        data: the shards.
        ids: int64 (N,), sample ids.
        heights: int32 (N,), rows.
        errors: float32 (N,), mean absolute error of the reconstruction.
        mu: float32 (N, D); of a spatial latent the mean over its positions.
        vectors: float32 (N, E), embeddings of length 1.
    """

    data: PageReader
    ids: np.ndarray
    heights: np.ndarray
    errors: np.ndarray
    mu: np.ndarray
    vectors: np.ndarray
    _pictures: Path
    _places: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def pictures(self, rows: slice) -> list[bytes]:
        """Return the thumbnails of consecutive pages as PNG files."""
        with self._pictures.open("rb") as stream:
            found = []
            for start, length in self._places[rows]:
                stream.seek(start)
                found.append(stream.read(length))
        return found

    def names(self, rows: slice) -> tuple[list[str], list[str]]:
        """Return the keys and the own ids of consecutive pages."""
        files = self.data.collator.files
        keys, page_ids = zip(*(files.names(int(number)) for number in self.ids[rows]), strict=True)
        return list(keys), [shown(page_id) for page_id in page_ids]

    def labels(self, rows: slice) -> tuple[list[str], list[str]]:
        """Return the labels and templates of consecutive pages."""
        index = self.data.index
        records = index.rows(self.ids[rows])
        labels = [shown(index.labels[number]) for number in records["label"]]
        return labels, [shown(index.templates[number]) for number in records["template"]]

    def blocks(self, length: int) -> Iterator[slice]:
        """Yield the pages in consecutive parts of at most `length`."""
        for start in range(0, len(self), length):
            yield slice(start, min(start + length, len(self)))


def shown(text: str) -> str:
    """Return a text of an untrusted source as it is shown: short, without control characters.

    Characters that reverse the direction of text are among those that are replaced.
    """
    cut = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."
    return "".join(letter if letter.isprintable() else UNPRINTABLE for letter in cut)


@torch.no_grad()
def measure_pages(
    trained: TrainedModel, data: PageReader, space: EmbeddingSpace, side: int, folder: Path
) -> Pages:
    """Encode, reconstruct and draw all pages of some shards.

    Args:
        space: of the embedding.
        side: width of a thumbnail in pixels.
        folder: gets the files of the arrays.

    Raises DamagedShards naming the damaged shard.
    """
    model, selection = trained.model, data.select("all")
    count = len(selection)
    dimensions = len(space.mu_centre)
    size = dimensions + len(space.edges_centre) + space.directions.shape[1]
    ids = selection.ids_at(np.arange(count))
    mu, vectors = (
        np.lib.format.open_memmap(folder / name, "w+", np.float32, (count, columns))
        for name, columns in (("mu.npy", dimensions), ("vectors.npy", size))
    )
    pages = Pages(
        data=data,
        ids=ids,
        heights=np.zeros(count, np.int32),
        errors=np.zeros(count, np.float32),
        mu=mu,
        vectors=vectors,
        _pictures=folder / "pictures",
        _places=np.zeros((count, 2), np.int64),
    )
    with pages._pictures.open("wb") as stream:
        for batch in trained.batches(data, "all", "encoding"):
            rows = np.searchsorted(ids, batch.ids.numpy())
            moved = batch.to(trained.engine.device)
            images = moved.images()
            posterior = model.posterior(images, moved.heights)
            latents = model.embed(posterior.mu, moved.heights).cpu()
            structure = model.structure(images, moved.heights, posterior.levels).cpu()
            page = model.reconstruct(posterior, moved.heights, moved.size).reconstruction
            error = masked_mean((page - images).abs(), moved.heights)
            pages.heights[rows] = batch.heights.numpy()
            pages.errors[rows] = error.cpu().numpy()
            pages.mu[rows] = latents.numpy()
            pages.vectors[rows] = space.vectors(latents, structure).numpy()
            for row, picture in zip(rows, cut_pages(images, moved.heights), strict=True):
                encoded = thumbnail(picture, side)
                pages._places[row] = stream.tell(), len(encoded)
                stream.write(encoded)
    return pages


def thumbnail(picture: np.ndarray, side: int) -> bytes:
    """Return a picture uint8 (H, W) as a PNG file of `side` columns and 16 greys."""
    height, width = picture.shape
    rows = max(1, round(height * side / width))
    small = Image.fromarray(picture).resize((side, rows), Image.Resampling.BOX)
    levels = np.rint(np.asarray(small) * ((GREYS - 1) / 255)).astype(np.uint8)
    image = Image.fromarray(levels)
    image.putpalette([level * 255 // (GREYS - 1) for level in range(GREYS) for _ in range(3)])
    stream = io.BytesIO()
    image.save(stream, "PNG", bits=4, optimize=True)
    return stream.getvalue()
