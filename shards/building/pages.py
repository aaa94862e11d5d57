"""Conversion of inputs to pages, in the worker processes of a build.

An input is read and checked, and drawn if PNGs are stored. The bytes of its pages are appended to
the spool file of the worker process. The main process receives only the facts about the pages.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.building.contents import Content, Picture, read_contents
from shards.building.dedupe import signature_of_layout, signature_of_picture
from shards.building.inputs import Input, Place, Reject
from shards.building.spool import SpoolOffset
from shards.format.index import BLOCK, RECORD
from shards.format.layout import MAX_AREA, MAX_TEXT, BadLayout, Layout, scaled_height
from shards.format.metadata import short_text
from shards.format.png import encode_png

_MAX_BLOCKS = np.iinfo(RECORD["blocks"]).max


@dataclass(frozen=True)
class Page(Place):
    """Facts about one page; its bytes lie in a spool file.

    file, line, member: source of the page, see `shards.building.inputs.Input`.
    split_key: value of the key that `--split-by` names; empty if the page has none.
    skipped: nodes left out because they are invisible or have no area.
    shortened: texts that were longer than `MAX_TEXT`.
    is_blank: it is a picture whose pixels are all equal.
    picture: digest of the drawn content, equal for exact duplicates.
    content: digest of the bytes of all members.
    members: files of the page in the order of the tar: name after the key, and size in bytes.
    spooled: offset of the members' bytes, which follow one another.
    raster: offset of the page's raster for `shards.building.dedupe`.
    """

    file: str
    line: int | None
    member: str | None
    id: str
    label: str
    template: str
    source: str
    split_key: str
    width: int
    height: int
    boxes: int
    skipped: int
    shortened: int
    is_blank: bool
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
            return [result for item in inputs for result in self._results(item, spool)]

    def _results(self, item: Input, spool: io.BufferedWriter) -> list[Page | Reject]:
        """Return the pages of an input and the refused ones, or the input as a refused one."""
        try:
            contents = read_contents(item, self.format, self.seed)
        except BadLayout as error:
            return [item.reject(str(error), error.page_id)]
        results: list[Page | Reject] = []
        for number, content in enumerate(contents):
            # The record's id overrides the input's name.
            name = item.name if number == 0 else f"{item.name}-{number}"
            try:
                results.append(self._page(item, name, content, spool))
            except BadLayout as error:
                results.append(item.reject(str(error), error.page_id))
        return results

    def _page(self, item: Input, name: str, content: Content, spool: io.BufferedWriter) -> Page:
        if isinstance(content, BadLayout):
            raise content
        meta = {"id": short_text(name), **content.meta}
        if "id" not in content.meta and len(name) > MAX_TEXT:
            meta["shortened"] = meta.get("shortened", 0) + 1
        if isinstance(content, Layout):
            return self._layout_page(item, meta, content, spool)
        if self.store != "png":
            raise BadLayout("a picture has no boxes; build with --store png")
        return self._picture_page(item, meta, content, spool)

    def _layout_page(
        self, item: Input, meta: dict[str, Any], layout: Layout, spool: io.BufferedWriter
    ) -> Page:
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
        return self._spooled(spool, item, meta, members, picture, raster)

    def _picture_page(
        self, item: Input, meta: dict[str, Any], content: Picture, spool: io.BufferedWriter
    ) -> Page:
        gray = content.gray
        height, width = gray.shape
        rows = self._rows(width, height)
        small = Image.fromarray(gray).resize((self.png_width, rows), Image.Resampling.BOX)
        meta |= {"w": width, "h": height, "n": 0}
        members = {"png": encode_png(np.asarray(small))}
        picture = _digest(b"%d %d " % (width, height), gray.tobytes())
        raster = signature_of_picture(gray)
        page = self._spooled(spool, item, meta, members, picture, raster)
        return replace(page, is_blank=content.is_blank)

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
    ) -> Page:
        """Write the files and the raster of a page to the spool file and return its facts."""
        skipped, shortened = meta.pop("skipped", 0), meta.pop("shortened", 0)
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
            member=item.member,
            id=meta["id"],
            label=meta["label"],
            template=meta.get("template", ""),
            source=meta.get("source", ""),
            split_key=str(meta.get(self.split_by, "")),
            width=meta["w"],
            height=meta["h"],
            boxes=meta["n"],
            skipped=skipped,
            shortened=shortened,
            is_blank=False,
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


def _npy(boxes: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, boxes, allow_pickle=False)
    return stream.getvalue()


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
