"""Contents of an input: its layouts or its picture, parsed by the registered source formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.building.inputs import Input, os_reason
from shards.building.streams import open_source, read_whole, unzipped
from shards.format.json_text import decode_json
from shards.format.layout import (
    MAX_AREA,
    MAX_SIDE,
    NO_LABEL,
    BadLayout,
    Layout,
    parse_layouts,
    schema_of,
)
from shards.format.metadata import metadata_of, short_text
from shards.format.tar import BOXES, read_boxes
from shards.format.text import UTF_8
from shards.source_formats import AUTO, file_format_of, generator_of, schema_of_choice

_SIGNATURE_BYTES = 512  # read to recognise a file; longer than every signature


@dataclass(frozen=True)
class Picture:
    """A wireframe that exists only as a picture.

    gray: uint8 (height, width); white is the deepest nesting.
    meta: as `Layout.meta`.
    """

    gray: np.ndarray
    meta: dict[str, Any]

    @property
    def is_blank(self) -> bool:
        """True if all pixels are equal."""
        return bool(self.gray.min() == self.gray.max())


Content = Layout | Picture | BadLayout


def read_contents(item: Input, choice: str = AUTO, seed: int = 0) -> list[Content]:
    """Return the pages of an input; of several, one that is refused is a `BadLayout`.

    Args:
        choice: value of `--format`.
        seed: of the page generator.

    Raises `BadLayout` if the input has no page that can be read.
    """
    if item.number is not None:
        return _layouts(generator_of(choice).generate(seed, item.number), choice)
    record: object = None
    if item.facts is not None:
        record = decode_json(unzipped(".json", item.facts))
    data = _bytes_of(item)
    if item.format_name.endswith(f".{BOXES}"):
        return [_layout_of_boxes(data, record)]
    form = file_format_of(item.format_name, data)
    if record is not None and _is_layout(record):
        return _layouts(record, choice)
    if form is None:
        return _labelled(_layouts(decode_json(data, UTF_8 if item.line else None), choice), item)
    parsed = form.parse(data)
    if not form.is_picture:
        return parsed if isinstance(parsed, list) else [parsed]
    meta = metadata_of(record) if isinstance(record, dict) else {}
    meta.setdefault("label", short_text(item.label or item.folder or NO_LABEL))
    return [Picture(parsed, meta)]


def is_picture(item: Input) -> bool:
    """Return whether an input is a picture and not a layout, without reading the picture."""
    form = file_format_of(item.format_name, _first_bytes(item))
    if form is None or not form.is_picture:
        return False
    try:
        return item.facts is None or not _is_layout(decode_json(item.facts))
    except BadLayout:
        return True


def _first_bytes(item: Input) -> bytes:
    if item.data is not None:
        return item.data
    try:
        with open_source(Path(item.file)) as stream:
            return stream.read(_SIGNATURE_BYTES)
    except (OSError, BadLayout):
        return b""


def _is_layout(record: object) -> bool:
    try:
        schema_of(record)
    except BadLayout:
        return False
    return True


def _layouts(record: object, choice: str) -> list[Content]:
    required = schema_of_choice(choice)
    try:
        if required is not None and (schema := schema_of(record)) is not required:
            raise BadLayout(f"a layout of the {schema.name} schema, but --format is {choice}")
        return parse_layouts(record)
    except BadLayout as error:
        page_id = record.get("id") if isinstance(record, dict) else None
        error.page_id = short_text(page_id) if isinstance(page_id, str) else None
        raise


def _labelled(pages: list[Content], item: Input) -> list[Content]:
    """Return layouts without a label of their own with the label of their sample."""
    if item.label is None:
        return pages
    label = short_text(item.label)
    return [
        replace(page, meta={**page.meta, "label": label})
        if isinstance(page, Layout) and page.meta["label"] == NO_LABEL
        else page
        for page in pages
    ]


def _layout_of_boxes(data: bytes, record: object) -> Layout:
    """Return a page of a shard, from its boxes and its JSON."""
    if not isinstance(record, dict):
        raise BadLayout("boxes without JSON beside them")
    width, height, depth = (record.get(name) for name in ("w", "h", "depth"))
    are_sizes = all(type(side) is int and 1 <= side <= MAX_SIDE for side in (width, height, depth))
    if not are_sizes or width * height > MAX_AREA:
        raise BadLayout("the JSON beside the boxes has no valid w, h and depth")
    try:
        boxes = read_boxes(data).copy()  # of bytes, which torch cannot use
    except ValueError as error:
        raise BadLayout(f"boxes cannot be read: {error}") from None
    first, last = boxes[:, :2], boxes[:, 2:]
    if len(boxes) == 0 or not ((first >= 0) & (first < last) & (last <= (width, height))).all():
        raise BadLayout("an empty box or one outside the canvas")
    meta = metadata_of(record)
    meta.setdefault("label", NO_LABEL)
    return Layout(width, height, boxes, depth, meta)


def _bytes_of(item: Input) -> bytes:
    if item.data is not None:
        return item.data if item.line else unzipped(item.member or "", item.data)
    try:
        return read_whole(Path(item.file))
    except OSError as error:
        raise BadLayout(os_reason(error)) from None
