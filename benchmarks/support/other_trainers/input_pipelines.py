"""What else feeds wireframes to a model: each as its own documentation would have a user write it.

A peer is a function that stores pages the way it likes and returns `open_pass`, which starts a pass
over them. All give the same batches, uint8 (B, 1, H, W) on the host, padded alike. Each imports
what it needs itself, so that an ImportError says that a peer isn't installed.
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
    """PageFiles as pictures, in the order of the batches.

    files: one PNG a page, 8-bit grey, of the width and height that the model is shown.
    batch_size: pages in a batch; the last one may have fewer.
    ladder: int64 (K,), ascending: the heights a batch may be padded to.
    """

    files: Sequence[Path]
    batch_size: int
    ladder: np.ndarray

    def collate(self, images: Sequence[Tensor]) -> Tensor:
        """Images, uint8 (1, H, W), padded to the lowest height of the ladder that holds all."""
        tallest = max(image.shape[1] for image in images)
        rows = int(self.ladder[np.searchsorted(self.ladder, tallest)])
        batch = torch.zeros(len(images), 1, rows, images[0].shape[2], dtype=torch.uint8)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[1]] = image
        return batch


def webdataset_pil(pages: PageFiles, folder: Path) -> OpenPass:
    """A plain WebDataset tar, decoded by its own handler, which is Pillow."""
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
    """A folder of PNGs, read and decoded by torchvision."""
    from torchvision.io import ImageReadMode, decode_image, read_file

    class Folder(Dataset):
        def __len__(self) -> int:
            return len(pages.files)

        def __getitem__(self, number: int) -> Tensor:
            return decode_image(read_file(str(pages.files[number])), ImageReadMode.GRAY)

    loader = DataLoader(Folder(), batch_size=pages.batch_size, collate_fn=pages.collate)
    return lambda: loader


def mosaicml_streaming(pages: PageFiles, folder: Path) -> OpenPass:
    """MosaicML Streaming's MDS shards of PNG bytes, decoded by torchvision."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    with MDSWriter(out=str(folder), columns={"png": "bytes"}) as writer:
        for file in pages.files:
            writer.write({"png": file.read_bytes()})
    clean_stale_shared_memory()  # of runs that were killed; it refuses to start otherwise
    dataset = StreamingDataset(local=str(folder), batch_size=pages.batch_size, shuffle=False)
    collate = _decoding(pages, "png")
    loader = DataLoader(dataset, batch_size=pages.batch_size, collate_fn=collate)
    return lambda: loader


def litdata_png(pages: PageFiles, folder: Path) -> OpenPass:
    """LitData's chunks of PNG bytes, decoded by torchvision."""
    loader = _litdata(pages, folder, Path.read_bytes, _decoding(pages, "page"))
    return lambda: loader


def litdata_raw(pages: PageFiles, folder: Path) -> OpenPass:
    """LitData's chunks of raw pixels: nothing to decode, tens of times the bytes."""
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
    """A collate function for samples whose `column` is a PNG's bytes."""
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
"""Peers by the name they are reported under."""
