"""Batches from shards on disk, in an exact order, read by worker processes.

A rank's micro batches are numbered from the start of training; number k is a pure function of k, so
resuming is starting to count elsewhere, and nothing has to be remembered or fast-forwarded.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.draw import draw, place
from shards.files import ShardFiles
from shards.index import DamagedShards, Index
from shards.layout import scaled_height
from shards.lifetime import STOP_SIGNALS, die_with_parent, start_reader_server
from shards.order import SampleOrder, Selection
from shards.png import decode_png
from shards.randomness import sample_keys, uniform
from shards.tar import BOXES, PNG, read_boxes


@dataclass
class Batch:
    """One micro batch, on the host or the device.

    Attributes:
        ids: Long (B,), sample ids.
        epochs: Long (B,), the epoch each sample belongs to: randomness is drawn from it.
        heights: Long (B,), rows of each page in the image; rows below are padding.
        size: (H, W) of the image, pixels.
        tops: Long (B,), the row of the scaled page that the image starts at.
        canvas: float32 (B, 2), width and height of each page, canvas pixels.
        boxes: float32 (T, 4), corners x0, y0, x1, y1 of all boxes, canvas pixels; None: `pixels`.
        owner: Long (T,), which of the B pages each box belongs to.
        pixels: uint8 (B, 1, H, W), for shards that hold images only.
    """

    ids: Tensor
    epochs: Tensor
    heights: Tensor
    size: tuple[int, int]
    tops: Tensor
    canvas: Tensor
    boxes: Tensor | None = None
    owner: Tensor | None = None
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def pin_memory(self) -> Batch:
        """The batch in page-locked host memory; DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; from page-locked memory without waiting for the copy."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def images(self) -> Tensor:
        """The pages as wireframes, float32 (B, 1, H, W) in [0, 1], on the batch's device."""
        if self.pixels is not None:
            return self.pixels.float().div_(255.0)
        placed = place(self.boxes, self.owner, self.canvas, self.tops, self.size[1])
        return draw(placed, self.owner, self.heights, self.size)

    def __getstate__(self) -> dict[str, Any]:
        # Between processes a tensor goes as a file of shared memory, of which those of a few KB
        # took 3 ms a batch to open; arrays are copied. Pixels are large enough for a file.
        small = {name: value for name, value in vars(self).items() if name != "pixels"}
        arrays = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in small.items()}
        return arrays | {"pixels": self.pixels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            setattr(self, name, tensor)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved = {k: change(v) if isinstance(v, Tensor) else v for k, v in fields.items()}
        return Batch(**moved)


def select(
    index: Index, split: str, *, width: int, max_height: int, val_templates: Sequence[str] = ()
) -> Selection:
    """The samples of `train`, `val` or `all`.

    Where the shards hold any of `val_templates`, the pages of these templates are `val` and all
    others are `train`; otherwise the split is the one the shards were built with.
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


class Collator:
    """Sample ids in, one host batch out."""

    def __init__(
        self, files: ShardFiles, *, width: int, max_height: int, ladder: np.ndarray, seed: int
    ) -> None:
        self.files = files
        self.width = width
        self.max_height = max_height
        self.ladder = ladder
        self.seed = seed

    def batch(self, ids: np.ndarray, epochs: np.ndarray, *, training: bool) -> Batch:
        """The pages of `ids`, int64 (B,), padded to a height of the ladder.

        Of a page taller than the maximum, training sees a window drawn with the sample's
        randomness, evaluation the top.
        """
        records = self.files.index.rows(ids)
        canvas = np.stack([records["width"], records["height"]], axis=1)
        full = torch.from_numpy(scaled_height(canvas[:, 0], canvas[:, 1], self.width))
        heights = full.clamp(max=self.max_height)
        tops = torch.zeros_like(heights)
        ids_tensor, epochs_tensor = torch.from_numpy(ids), torch.from_numpy(epochs)
        if training:
            keys = sample_keys(self.seed, epochs_tensor, ids_tensor, "window")
            draws = uniform(keys, torch.zeros_like(keys)).double()
            tops = (draws * (full - heights + 1)).long()
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
        member, decode = (PNG, decode_png) if is_png else (BOXES, read_boxes)
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
        for row, (page, (whole, top, height)) in enumerate(zip(pages, windows, strict=True)):
            if page.shape != (whole, self.width):
                image = Image.fromarray(page).resize((self.width, whole), Image.Resampling.BOX)
                page = np.asarray(image)
            pixels.numpy()[row, 0, :height] = page[top : top + height]
        return pixels


class TrainingReader(Dataset):
    """This rank's micro batches of the endless training sequence, by number."""

    def __init__(
        self,
        order: SampleOrder,
        collator: Collator,
        *,
        rank: int,
        world_size: int,
        micro_batch_size: int,
    ) -> None:
        self.order = order
        self.collator = collator
        self.rank = rank
        self.world_size = world_size
        self.micro_batch_size = micro_batch_size
        self.accumulation = order.global_batch_size // (world_size * micro_batch_size)
        self._window: tuple[int, int] | None = None

    def __getitem__(self, number: int) -> Batch | DamagedShards:
        step, turn = divmod(number, self.accumulation)
        if (window := self.order.window(step)) != self._window:
            self._window = window
            self.collator.files.prefetch(self.order.shards_from(*window))
        ids, epochs = self.order.step(step)
        # All ranks work on neighbours in height at a time, so none waits for one with taller pages.
        first = (turn * self.world_size + self.rank) * self.micro_batch_size
        mine = slice(first, first + self.micro_batch_size)
        return _read(self.collator, ids[mine], epochs[mine], training=True)


class EvaluationReader(Dataset):
    """This rank's batches of a selection, each sample once over all ranks, by number.

    Every rank has the same number of batches, the last of them maybe empty (None), so that no
    rank waits for another in a collective.
    """

    def __init__(
        self,
        selection: Selection,
        collator: Collator,
        *,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 16,
    ) -> None:
        index, places = collator.files.index, np.arange(len(selection))
        ids = selection.ids_at(places)
        portions = _portions(index)[index.shards_of(ids)]
        self.ids = ids[np.lexsort((selection.heights_at(places), portions))]
        self.collator = collator
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.ids) // (self.batch_size * self.world_size))

    def __getitem__(self, number: int) -> Batch | DamagedShards | None:
        first = (number * self.world_size + self.rank) * self.batch_size
        ids = self.ids[first : first + self.batch_size]
        if len(ids) == 0:
            return None
        return _read(self.collator, ids, np.zeros_like(ids), training=False)


def _portions(index: Index) -> np.ndarray:
    """The number, int64 (S,), of each shard's portion: pages of like height are found inside it.

    All shards are one portion, unless they are fetched into a cache that is smaller.
    """
    ends = np.cumsum([shard.bytes for shard in index.shards])
    if index.cache is None or ends[-1] <= index.cache.options.bytes:
        return np.zeros_like(ends)
    return 2 * ends // index.cache.options.bytes  # the next one needs room, too


def _read(collator: Collator, ids: np.ndarray, epochs: np.ndarray, *, training: bool):
    # A worker's exception reaches the trainer as a page of traceback; as a value it stays one line.
    try:
        return collator.batch(ids, epochs, training=training)
    except DamagedShards as error:
        return error


def read_batches(
    reader: TrainingReader | EvaluationReader,
    numbers: range,
    *,
    workers: int,
    prefetch: int,
    pin_memory: bool = False,
) -> Iterator[Batch | None]:
    """The batches of these numbers, in order, read ahead by `workers` processes.

    Raises DamagedShards when a shard turns out not to be what the index says, or the index to be
    another than that which was opened.
    """
    reader.collator.files.index.check_unchanged()  # reader processes open it anew
    if workers:
        start_reader_server("shards.reader")  # unless it was started earlier
    loader = DataLoader(
        reader,
        sampler=numbers,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_settle_worker,
        multiprocessing_context="forkserver" if workers else None,
    )
    for batch in loader:
        if isinstance(batch, DamagedShards):
            raise batch
        yield batch


def _settle_worker(_: int) -> None:
    # torch has just set a handler of its own.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
