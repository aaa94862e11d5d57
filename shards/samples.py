"""From an input to what a shard holds of it; done by worker processes, one chunk at a time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.dedupe import signature_of_layout, signature_of_picture
from shards.layout import MAX_BYTES, NO_LABEL, BadLayout, Layout, parse_layout, schema_of
from shards.png import decode_png, encode_png
from shards.sources import Input, Reject, read_whole
from shards.tar import BOXES, JSON, PNG, write_boxes


@dataclass(frozen=True)
class Recipe:
    """How inputs become samples: one of `sources.FORMATS`, one of `index.STORES`, px, seed."""

    form: str
    store: str
    png_width: int
    seed: int


@dataclass(frozen=True)
class Sample:
    """A parsed input.

    id: from the input, not yet unique. meta: what the table and the split need to know.
    members: file contents by extension. digest, signature: for finding duplicates.
    """

    file: str
    line: int | None
    id: str
    width: int
    height: int
    count: int
    meta: dict[str, Any]
    members: dict[str, bytes]
    digest: bytes
    signature: np.ndarray


def read_samples(recipe: Recipe, chunk: list[Input]) -> list[Sample | Reject]:
    """Parse a chunk of inputs, in order; what cannot be used becomes a reject that says why."""
    return [_read_sample(recipe, item) for item in chunk]


def _read_sample(recipe: Recipe, item: Input) -> Sample | Reject:
    refuse = partial(Reject, item.file, line=item.line)
    try:
        if item.is_png:
            return _picture_sample(recipe, item)
        record = _record(recipe, item)
    except (BadLayout, OSError) as error:
        return refuse(getattr(error, "strerror", None) or str(error))
    try:
        return _layout_sample(recipe, item, parse_layout(record))
    except BadLayout as error:
        name = record.get("id") if isinstance(record, dict) else None
        return refuse(str(error), id=name if isinstance(name, str) else None)


def _record(recipe: Recipe, item: Input) -> object:
    if item.number is not None:
        from shards.synthetic import generate

        return generate(recipe.seed, item.number)
    data = item.line_bytes if item.line_bytes is not None else read_whole(Path(item.file))
    if len(data) > MAX_BYTES:
        raise BadLayout(f"longer than {MAX_BYTES} bytes")
    try:
        record = json.loads(data)
    except RecursionError:
        raise BadLayout("nested too deeply") from None
    except ValueError:
        raise BadLayout("empty" if not data.strip() else "not JSON, or cut off") from None
    if recipe.form == "rico" and schema_of(record) != "rico":
        raise BadLayout("not a RICO view hierarchy")
    return record


def _layout_sample(recipe: Recipe, item: Input, layout: Layout) -> Sample:
    members = {}
    if recipe.store != "png":
        members[BOXES] = write_boxes(layout.boxes)
    if recipe.store != "boxes":
        members[PNG] = encode_png(_drawn(layout, recipe.png_width))
    canvas = np.array([layout.width, layout.height], "<i4").tobytes()
    return _sample(
        item,
        size=(layout.width, layout.height),
        meta=layout.meta | {"n": len(layout.boxes), "depth": layout.depth},
        members=members,
        digest=canvas + layout.boxes.astype("<f4").tobytes(),
        signature=signature_of_layout(layout),
        count=0 if recipe.store == "png" else len(layout.boxes),
    )


def _picture_sample(recipe: Recipe, item: Input) -> Sample:
    if recipe.store != "png":
        raise BadLayout(f"a picture has no boxes for --store {recipe.store}; use --store png")
    gray = decode_png(read_whole(Path(item.file)))
    height, width = gray.shape
    return _sample(
        item,
        size=(width, height),
        meta={"label": item.folder or NO_LABEL},
        members={PNG: encode_png(gray)},
        digest=np.array([width, height], "<i4").tobytes() + gray.tobytes(),
        signature=signature_of_picture(gray),
        count=0,
    )


def _sample(
    item: Input,
    *,
    size: tuple[int, int],
    meta: dict[str, Any],
    members: dict[str, bytes],
    digest: bytes,
    signature: np.ndarray,
    count: int,
) -> Sample:
    name = meta.get("id") or item.name
    told = meta | {"id": name, "w": size[0], "h": size[1]}
    members[JSON] = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.blake2b(digest, digest_size=16).digest()
    return Sample(item.file, item.line, name, *size, count, meta, members, digest, signature)


def _drawn(layout: Layout, width: int) -> np.ndarray:
    """The wireframe of a layout at its full proportional height, uint8 (H, W)."""
    # Imported only where pictures are asked for: torch takes seconds.
    import torch

    from shards.draw import draw, place
    from shards.layout import scaled_height

    height = scaled_height(layout.width, layout.height, width)
    boxes = torch.from_numpy(layout.boxes.astype(np.float32))
    owner = torch.zeros(len(boxes), dtype=torch.long)
    canvas = torch.tensor([[layout.width, layout.height]], dtype=torch.float32)
    boxes = place(boxes, owner, canvas, torch.zeros(1, dtype=torch.long), width)
    image = draw(boxes, owner, torch.tensor([height]), (height, width))
    return (image[0, 0] * 255).round().to(torch.uint8).numpy()
