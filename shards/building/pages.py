"""Conversion of inputs to pages, in the worker processes of a build.

An input is read and checked, and drawn if PNGs are stored. The bytes of its page are appended to
the spool file of the worker process. The main process receives only the facts about the page.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.building.dedupe import signature_of_layout, signature_of_picture
from shards.building.sources import Input, Reject, read_whole
from shards.building.spool import SpoolOffset
from shards.format.index import BLOCK, RECORD
from shards.format.layout import (
    MAX_AREA,
    MAX_BYTES,
    NO_LABEL,
    BadLayout,
    Layout,
    decode_json,
    parse_layout,
    scaled_height,
    schema_of,
)
from shards.format.png import encode_png
from shards.source_formats import FileFormat, file_format_of, generator_of, schema_of_choice

_MAX_BLOCKS = np.iinfo(RECORD["blocks"]).max


@dataclass(frozen=True)
class Page:
    """Facts about one page; its bytes lie in a spool file.

    file, line: source of the page.
    split_key: value of the key that `--split-by` names; empty if the page has none.
    picture: digest of the drawn content, equal for exact duplicates.
    content: digest of the bytes of all members.
    members: files of the page in the order of the tar: name after the key, and size in bytes.
    spooled: offset of the members' bytes, which follow one another.
    raster: offset of the page's raster for `shards.building.dedupe`.
    """

    file: str
    line: int | None
    id: str
    label: str
    template: str
    source: str
    split_key: str
    width: int
    height: int
    boxes: int
    skipped: int
    picture: bytes
    content: bytes
    members: tuple[tuple[str, int], ...]
    spooled: SpoolOffset
    raster: SpoolOffset

    @property
    def blocks(self) -> int:
        """Number of tar blocks: for each member one header block and its padded content."""
        return _blocks(self.members)


def _blocks(members: Sequence[tuple[str, int]]) -> int:
    return sum(1 + -(-size // BLOCK) for _, size in members)


@dataclass(frozen=True)
class PageReader:
    """Function that converts inputs to pages in a worker process.

    store: of `shards.format.index.STORES`; with "boxes" or "both", pictures are refused.
    png_width: width of the stored pictures in px.
    format: value of `--format`.
    split_by: key whose value becomes `Page.split_key`, or None.
    seed: of the page generator.
    spool: folder of the spool files.
    """

    store: str
    png_width: int
    format: str
    split_by: str | None
    seed: int
    spool: Path

    def __call__(self, inputs: Sequence[Input]) -> list[Page | Reject]:
        with (self.spool / f"{os.getpid()}.spool").open("ab") as spool:
            return [self._page_or_reject(item, spool) for item in inputs]

    def _page_or_reject(self, item: Input, spool: io.BufferedWriter) -> Page | Reject:
        record: object = None
        try:
            file_format = file_format_of(item.file)
            if file_format is not None:
                return self._file_page(item, file_format, spool)
            record = self._record(item)
            return self._layout_page(item, self._parsed(record), spool)
        except BadLayout as error:
            page_id = record.get("id") if isinstance(record, dict) else None
            page_id = _encodable(page_id[:80]) if isinstance(page_id, str) else None
            return Reject(item.file, str(error), item.line, page_id)

    def _record(self, item: Input) -> object:
        if item.number is not None:
            return generator_of(self.format).generate(self.seed, item.number)
        return decode_json(_bytes_of(item) if item.line_bytes is None else item.line_bytes)

    def _parsed(self, record: object) -> Layout:
        required = schema_of_choice(self.format)
        if required is not None and (schema := schema_of(record)) is not required:
            raise BadLayout(f"a layout of the {schema.name} schema, but --format is {self.format}")
        return parse_layout(record)

    def _file_page(self, item: Input, form: FileFormat, spool: io.BufferedWriter) -> Page:
        if not form.is_picture:
            return self._layout_page(item, form.parse(_bytes_of(item)), spool)
        if self.store != "png":
            raise BadLayout("a picture has no boxes; build with --store png")
        return self._picture_page(item, form.parse(_bytes_of(item)), spool)

    def _layout_page(self, item: Input, layout: Layout, spool: io.BufferedWriter) -> Page:
        # The record's id overrides the input's name.
        meta = {"id": _encodable(item.name), **layout.meta}
        skipped = meta.pop("skipped", 0)
        meta |= {"w": layout.width, "h": layout.height}
        meta |= {"n": len(layout.boxes), "depth": layout.depth}
        members = {}
        if self.store != "png":
            members["boxes.npy"] = _npy(layout.boxes)
        if self.store != "boxes":
            self._rows(layout.width, layout.height)
            members["png"] = encode_png(draw_page(layout, self.png_width))
        picture = _digest(b"%d %d " % (layout.width, layout.height), _npy(layout.boxes))
        raster = signature_of_layout(layout)
        return self._spooled(spool, item, meta, members, picture, raster, skipped)

    def _picture_page(self, item: Input, gray: np.ndarray, spool: io.BufferedWriter) -> Page:
        height, width = gray.shape
        rows = self._rows(width, height)
        small = Image.fromarray(gray).resize((self.png_width, rows), Image.Resampling.BOX)
        label = _encodable(item.folder or NO_LABEL)
        meta = {"id": _encodable(item.name), "label": label, "w": width, "h": height, "n": 0}
        members = {"png": encode_png(np.asarray(small))}
        picture = _digest(b"%d %d " % (width, height), gray.tobytes())
        return self._spooled(spool, item, meta, members, picture, signature_of_picture(gray), 0)

    def _rows(self, width: int, height: int) -> int:
        # Scaled to `png_width`, a page of 1 x 32,767 px would need gigabytes of memory.
        rows = scaled_height(width, height, self.png_width)
        if rows * self.png_width > MAX_AREA:
            raise BadLayout(
                f"{width} x {height} px scaled to a width of {self.png_width} px is more than "
                f"{MAX_AREA} px"
            )
        return rows

    def _spooled(
        self,
        spool: io.BufferedWriter,
        item: Input,
        meta: dict[str, Any],
        files: dict[str, bytes],
        picture: bytes,
        raster: np.ndarray,
        skipped: int,
    ) -> Page:
        """Write the files and the raster of a page to the spool file and return its facts."""
        files["json"] = json.dumps(meta, sort_keys=True).encode()
        names = sorted(files)  # the order of webdataset's writer
        members = tuple((name, len(files[name])) for name in names)
        if _blocks(members) > _MAX_BLOCKS:
            raise BadLayout(f"more than {_MAX_BLOCKS * BLOCK} bytes in a shard")
        raster_offset = _append(spool, raster.tobytes())
        offset = _append(spool, b"".join(files[name] for name in names))
        return Page(
            file=item.file,
            line=item.line,
            id=meta["id"],
            label=meta["label"],
            template=meta.get("template", ""),
            source=meta.get("source", ""),
            split_key=str(meta.get(self.split_by, "")),
            width=meta["w"],
            height=meta["h"],
            boxes=meta["n"],
            skipped=skipped,
            picture=picture,
            content=_digest(*(files[name] for name in names)),
            members=members,
            spooled=offset,
            raster=raster_offset,
        )


def _append(spool: io.BufferedWriter, data: bytes) -> SpoolOffset:
    offset = SpoolOffset(Path(spool.name).name, spool.tell())
    spool.write(data)
    return offset


def draw_page(layout: Layout, width: int) -> np.ndarray:
    """Draw a layout `width` px wide: grey values depth / 40 * 255, uint8 (H, width)."""
    import torch

    from shards.reading.draw import draw, place

    torch.set_num_threads(1)  # the worker processes use all cores already
    boxes = torch.from_numpy(layout.boxes)
    owner = torch.zeros(len(boxes), dtype=torch.long)
    rows = scaled_height(layout.width, layout.height, width)
    canvas = torch.tensor([[layout.width, layout.height]])
    placed = place(boxes, owner, canvas, torch.zeros(1, dtype=torch.long), width)
    image = draw(placed, owner, torch.tensor([rows]), (rows, width))
    return image[0, 0].mul(255).round().to(torch.uint8).numpy()


def _bytes_of(item: Input) -> bytes:
    try:
        data = read_whole(Path(item.file))
    except OSError as error:
        raise BadLayout(f"cannot be read: {error.strerror or error}") from None
    if not data:
        raise BadLayout("empty file")
    if len(data) > MAX_BYTES:
        raise BadLayout(f"longer than {MAX_BYTES} bytes")
    return data


def _npy(boxes: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, boxes, allow_pickle=False)
    return stream.getvalue()


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _encodable(text: str) -> str:
    # File names that are not UTF-8, and lone surrogates in JSON, cannot be written to a file.
    return text.encode("utf-8", "replace").decode()
