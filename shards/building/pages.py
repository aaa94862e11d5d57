"""From an input to what its shard will hold: read, checked, drawn where asked for, and spooled.

This is what worker processes do. The bytes of the pages go to a spool file of each process, what
the builder has to know about them comes back.
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
from shards.building.spool import Place
from shards.format.index import BLOCK, RECORD
from shards.format.layout import (
    MAX_AREA,
    MAX_BYTES,
    NO_LABEL,
    BadLayout,
    Layout,
    parse_layout,
    scaled_height,
    schema_of,
)
from shards.format.png import decode_png, encode_png

_MAX_BLOCKS = np.iinfo(RECORD["blocks"]).max


@dataclass(frozen=True)
class Page:
    """What the builder knows of a page; its bytes lie in a spool file.

    file, line: where it was read from.
    split_key: the value of the key that the user asked to split by, if any.
    picture: digest of what is drawn, equal for exact duplicates; content: digest of all bytes.
    members: name after the key and size in bytes of each file, in the order of the tar.
    place: where their bytes lie, one after the other.
    raster: where its raster for `shards.building.dedupe` lies.
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
    place: Place
    raster: Place

    @property
    def blocks(self) -> int:
        """Size in the tar, in blocks: each file has a header of one and is padded to whole ones."""
        return _blocks(self.members)


def _blocks(members: Sequence[tuple[str, int]]) -> int:
    return sum(1 + -(-size // BLOCK) for _, size in members)


@dataclass(frozen=True)
class PageReader:
    """Turns inputs into pages.

    store: of `shards.format.index.STORES`; with "boxes" or "both", pictures are refused.
    png_width: width of the stored pictures in px.
    form: of `shards.building.sources.FORMATS`.
    seed: of the generator. spool: folder of the spool files.
    """

    store: str
    png_width: int
    form: str
    split_by: str | None
    seed: int
    spool: Path

    def __call__(self, inputs: Sequence[Input]) -> list[Page | Reject]:
        with (self.spool / f"{os.getpid()}.spool").open("ab") as spool:
            return [self._page_or_reject(item, spool) for item in inputs]

    def _page_or_reject(self, item: Input, spool: io.BufferedWriter) -> Page | Reject:
        record: object = None
        try:
            if item.is_png:
                return self._picture_page(item, spool)
            record = self._record(item)
            return self._layout_page(item, record, spool)
        except BadLayout as error:
            name = record.get("id") if isinstance(record, dict) else None
            name = _plain(name[:80]) if isinstance(name, str) else None
            return Reject(item.file, str(error), item.line, name)

    def _record(self, item: Input) -> object:
        if item.number is not None:
            from shards.synthetic.archetypes import generate

            return generate(self.seed, item.number)
        return decode_json(_bytes_of(item) if item.line_bytes is None else item.line_bytes)

    def _layout_page(self, item: Input, record: object, spool: io.BufferedWriter) -> Page:
        if self.form == "rico" and schema_of(record) != "rico":
            raise BadLayout(f"not a RICO layout, but one of the {schema_of(record)} schema")
        layout = parse_layout(record)
        # Facts come before choices: what the record says of itself, then what we add.
        meta = {"id": _plain(item.name), **layout.meta}
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

    def _picture_page(self, item: Input, spool: io.BufferedWriter) -> Page:
        if self.store != "png":
            raise BadLayout("a picture has no boxes: --store png takes pictures and layouts alike")
        gray = decode_png(_bytes_of(item))
        height, width = gray.shape
        rows = self._rows(width, height)
        small = Image.fromarray(gray).resize((self.png_width, rows), Image.Resampling.BOX)
        label = _plain(item.folder or NO_LABEL)
        meta = {"id": _plain(item.name), "label": label, "w": width, "h": height, "n": 0}
        members = {"png": encode_png(np.asarray(small))}
        picture = _digest(b"%d %d " % (width, height), gray.tobytes())
        return self._spooled(spool, item, meta, members, picture, signature_of_picture(gray), 0)

    def _rows(self, width: int, height: int) -> int:
        # A page one pixel wide and 32,767 high would be a picture of gigabytes.
        rows = scaled_height(width, height, self.png_width)
        if rows * self.png_width > MAX_AREA:
            raise BadLayout(
                f"{width} x {height} px drawn {self.png_width} px wide is over {MAX_AREA} px"
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
        files["json"] = json.dumps(meta, sort_keys=True).encode()
        names = sorted(files)  # as webdataset's writer does
        members = tuple((name, len(files[name])) for name in names)
        if _blocks(members) > _MAX_BLOCKS:
            raise BadLayout(f"over {_MAX_BLOCKS * BLOCK} bytes in a shard")
        raster_place = _append(spool, raster.tobytes())
        place = _append(spool, b"".join(files[name] for name in names))
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
            place=place,
            raster=raster_place,
        )


def _append(spool: io.BufferedWriter, data: bytes) -> Place:
    place = Place(Path(spool.name).name, spool.tell())
    spool.write(data)
    return place


def decode_json(data: bytes) -> object:
    """Decode one JSON value; raises `BadLayout` for whatever is not JSON.

    NaN and Infinity are let through, so that the box which holds them can be named.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise BadLayout("nested too deeply") from None
    except UnicodeDecodeError:
        raise BadLayout("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        what = "cut off" if error.pos >= len(error.doc.rstrip()) else "wrong"
        raise BadLayout(f"JSON is {what} at character {error.pos}: {error.msg}") from None
    except ValueError:
        raise BadLayout("JSON holds a number of thousands of digits") from None


def draw_page(layout: Layout, width: int) -> np.ndarray:
    """A layout as a wireframe of `width` px, uint8 (H, width): depth / 40 * 255."""
    import torch

    from shards.reading.draw import draw, place

    torch.set_num_threads(1)  # the processes share the cores already
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


def _plain(text: str) -> str:
    # File names that are no text, and lone surrogates in JSON, cannot be written to a file.
    return text.encode("utf-8", "replace").decode()
