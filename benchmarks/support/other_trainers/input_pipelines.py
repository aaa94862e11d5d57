"""Other input pipelines for wireframes, each written as its own documentation recommends.

A peer is a function that stores pages in its own format and returns `open_pass`, which starts a
pass over them. All return the same batches, uint8 (B, 1, H, W) on the host, padded alike. Each
function imports its library itself, so that an ImportError means that a peer is not installed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

OpenPass = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class PageFiles:
    """PNG files of pages, in the order of the batches.

    Attributes:
        files: one a page, 8-bit grey, of the width and height of the model's input.
        batch_size: pages in a batch; the last one may have fewer.
        ladder: int64 (K,), ascending: heights that a batch may be padded to.
    """

    files: Sequence[Path]
    batch_size: int
    ladder: np.ndarray

    def collate(self, images: Sequence[Tensor]) -> Tensor:
        """Pad images, uint8 (1, H, W), to the lowest height of the ladder that fits all."""
        tallest = max(image.shape[1] for image in images)
        rows = int(self.ladder[np.searchsorted(self.ladder, tallest)])
        batch = torch.zeros(len(images), 1, rows, images[0].shape[2], dtype=torch.uint8)
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[1]] = image
        return batch


def webdataset_pil(pages: PageFiles, folder: Path) -> OpenPass:
    """Read a plain WebDataset tar, decoded by its own handler, Pillow."""
    import webdataset

    path = folder / "pages.tar"
    with webdataset.TarWriter(str(path)) as tar:
        for file in pages.files:
            tar.write({"__key__": file.stem, "png": file.read_bytes()})

    def collate(samples: Sequence[tuple[np.ndarray]]) -> Tensor:
        return pages.collate([torch.from_numpy(image.copy())[None] for (image,) in samples])

    dataset = webdataset.WebDataset(str(path), shardshuffle=False).decode("l8").to_tuple("png")
    dataset = dataset.batched(pages.batch_size, collation_fn=collate)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=0)
    return lambda: loader


def torchvision_folder(pages: PageFiles, folder: Path) -> OpenPass:
    """Read a folder of PNGs with torchvision."""
    from torchvision.io import ImageReadMode, decode_image, read_file

    class Folder(Dataset):
        def __len__(self) -> int:
            return len(pages.files)

        def __getitem__(self, number: int) -> Tensor:
            return decode_image(read_file(str(pages.files[number])), ImageReadMode.GRAY)

    loader = DataLoader(Folder(), batch_size=pages.batch_size, collate_fn=pages.collate)
    return lambda: loader


def mosaicml_streaming(pages: PageFiles, folder: Path) -> OpenPass:
    """Read MosaicML Streaming's MDS shards of PNG bytes, decoded by torchvision."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    with MDSWriter(out=str(folder), columns={"png": "bytes"}) as writer:
        for file in pages.files:
            writer.write({"png": file.read_bytes()})
    # Shared memory left by a killed run would make StreamingDataset refuse to start.
    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(folder), batch_size=pages.batch_size, shuffle=False)
    collate = _decoding(pages, "png")
    loader = DataLoader(dataset, batch_size=pages.batch_size, collate_fn=collate)
    return lambda: loader


def litdata_png(pages: PageFiles, folder: Path) -> OpenPass:
    """Read LitData's chunks of PNG bytes, decoded by torchvision."""
    loader = _litdata(pages, folder, Path.read_bytes, _decoding(pages, "page"))
    return lambda: loader


def litdata_raw(pages: PageFiles, folder: Path) -> OpenPass:
    """Read LitData's chunks of raw pixels: no decoding, tens of times the bytes."""
    loader = _litdata(
        pages,
        folder,
        _raw_pixels,
        lambda samples: pages.collate([sample["page"] for sample in samples]),
    )
    return lambda: loader


def _litdata(
    pages: PageFiles,
    folder: Path,
    stored: Callable[[Path], bytes | Tensor],
    collate: Callable[[Sequence[dict]], Tensor],
) -> Iterable[Tensor]:
    import litdata
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_bytes="64MB")
    for number, file in enumerate(pages.files):
        cache[number] = {"page": stored(file)}
    cache.done()
    cache.merge()
    dataset = litdata.StreamingDataset(str(folder), shuffle=False)
    return litdata.StreamingDataLoader(
        dataset, batch_size=pages.batch_size, collate_fn=collate, num_workers=0
    )


def _decoding(pages: PageFiles, column: str) -> Callable[[Sequence[dict]], Tensor]:
    """Return a collate function for samples whose `column` has the bytes of a PNG."""
    from torchvision.io import ImageReadMode, decode_image

    def collate(samples: Sequence[dict]) -> Tensor:
        encoded = [
            torch.frombuffer(bytearray(sample[column]), dtype=torch.uint8) for sample in samples
        ]
        return pages.collate([decode_image(data, ImageReadMode.GRAY) for data in encoded])

    return collate


def _raw_pixels(file: Path) -> Tensor:
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(io.BytesIO(file.read_bytes()))))[None]


PEERS = {
    "WebDataset + PIL": webdataset_pil,
    "torchvision, a folder": torchvision_folder,
    "MosaicML Streaming": mosaicml_streaming,
    "LitData": litdata_png,
    "LitData, raw pixels": litdata_raw,
}
"""Peers by their names in records."""
