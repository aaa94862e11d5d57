"""Collator: sample ids to one batch on the host."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shards.format.layout import scaled_height
from shards.format.png import decode_png
from shards.format.tar import BOXES, PNG, read_boxes
from shards.randomness import sample_keys, uniform
from shards.reading.batch import Batch
from shards.reading.shard_files import ShardFiles


class Collator:
    """Function of sample ids that returns one batch on the host.

    Attributes:
        others: sample id of each page's other width, or its own; None: not known.
    """

    def __init__(
        self, files: ShardFiles, *, width: int, max_height: int, ladder: np.ndarray, seed: int
    ) -> None:
        self.files = files
        self.width = width
        self.max_height = max_height
        self.ladder = ladder
        self.seed = seed
        self.others: np.ndarray | None = None

    def training_batch(self, ids: np.ndarray, epochs: np.ndarray) -> Batch:
        """Return the pages of `ids` for training, with their other widths if these are known."""
        batch = self.batch(ids, epochs, training=True)
        if self.others is not None:
            batch.other = self.batch(self.others[ids], epochs, training=True)
        return batch

    def batch(self, ids: np.ndarray, epochs: np.ndarray, *, training: bool) -> Batch:
        """Return the pages of `ids`, int64 (B,), padded to a height of the ladder.

        A page taller than the maximum is cropped: in training to a window drawn from the sample's
        random numbers, in evaluation to its top.
        """
        records = self.files.index.rows(ids)
        canvas = np.stack([records["width"], records["height"]], axis=1)
        full = torch.from_numpy(scaled_height(canvas[:, 0], canvas[:, 1], self.width))
        heights = full.clamp(max=self.max_height)
        tops = torch.zeros_like(heights)
        ids_tensor, epochs_tensor = torch.from_numpy(ids), torch.from_numpy(epochs)
        if training:
            keys = sample_keys(self.seed, epochs_tensor, ids_tensor, "window")
            fractions = uniform(keys, torch.zeros_like(keys)).double()
            tops = (fractions * (full - heights + 1)).long()
        rows = int(self.ladder[np.searchsorted(self.ladder, int(heights.max()))])
        batch = Batch(
            ids=ids_tensor,
            epochs=epochs_tensor,
            heights=heights,
            size=(rows, self.width),
            tops=tops,
            canvas=torch.from_numpy(canvas.astype(np.float32)),
        )
        is_png = self.files.index.header["store"] == "png"
        member, decode = (PNG, _decode_stored) if is_png else (BOXES, read_boxes)
        pairs = zip(ids.tolist(), records, strict=True)
        pages = [self.files.array(number, record, member, decode) for number, record in pairs]
        if is_png:
            batch.pixels = self._pixels(pages, batch, full)
        else:
            counts = torch.tensor([len(page) for page in pages])
            batch.boxes = torch.from_numpy(np.concatenate(pages, dtype=np.float32))
            batch.owner = torch.repeat_interleave(torch.arange(len(pages)), counts)
        return batch

    def _pixels(self, pages: list[np.ndarray], batch: Batch, full: Tensor) -> Tensor:
        pixels = torch.zeros(len(pages), 1, *batch.size, dtype=torch.uint8)
        windows = zip(full.tolist(), batch.tops.tolist(), batch.heights.tolist(), strict=True)
        for row, (page, (rows, top, height)) in enumerate(zip(pages, windows, strict=True)):
            if page.shape != (rows, self.width):
                image = Image.fromarray(page).resize((self.width, rows), Image.Resampling.BOX)
                page = np.asarray(image)
            pixels.numpy()[row, 0, :height] = page[top : top + height]
        return pixels


def _decode_stored(data: bytes) -> np.ndarray:
    # The builder wrote the picture, and the shard's checksum was compared.
    return decode_png(data, check_rows=False)
