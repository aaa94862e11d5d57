"""Contact sheet: pages of shards drawn as in training, with their labels and ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.errors import UserError, one_line
from shards.format.index import Index
from shards.reading.collator import Collator
from shards.reading.height_ladder import height_ladder
from shards.reading.shard_files import ShardFiles

COLUMNS, ROWS = 8, 4
CAPTION, GAP = 28, 8  # px
BRIGHTNESS = 2.5  # real pages use less than half of the grey range
FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf")
"""Fonts searched on the machine for texts that are not ASCII."""

FONT_SIZE = 10  # px
_NO_CHARACTER = "\uffff"  # drawn as the box that stands for a missing character
_STRIDE = 16


def chosen_pages(ids: range) -> np.ndarray:
    """Return at most COLUMNS * ROWS sample ids spread evenly over a range, int64."""
    places = np.linspace(ids.start, ids.stop - 1, COLUMNS * ROWS).round()
    return np.unique(places.astype(np.int64))


def draw_sheet(index: Index, ids: np.ndarray, path: Path, size: tuple[int, int]) -> None:
    """Draw pages to a PNG file in reading order, each below its number, label and id.

    Args:
        ids: sample ids, int64 (N,), at least one.
        size: width of the pages and their largest height in px, a multiple of 16; the top of a
            taller page is drawn.

    Raises UserError if the file cannot be written, and DamagedShards as reading does.
    """
    width, max_height = size
    ladder = height_ladder(max_height, _STRIDE)
    files = ShardFiles(index)
    collator = Collator(files, width=width, max_height=max_height, ladder=ladder, seed=0)
    batch = collator.batch(ids, np.zeros_like(ids), training=False)
    images = (batch.images()[:, 0] * (255 * BRIGHTNESS)).clamp(0, 255).byte().numpy()
    columns = min(COLUMNS, len(ids))
    step = (width + GAP, int(batch.heights.max()) + CAPTION + GAP)
    rows = -(-len(ids) // columns)
    sheet = Image.new("L", (columns * step[0] + GAP, rows * step[1] + GAP), 255)
    for at, (number, image, height) in enumerate(zip(ids, images, batch.heights, strict=True)):
        left = GAP + at % columns * step[0]
        top = GAP + at // columns * step[1]
        label = index.labels[index.table["label"][number]]
        caption = _caption([f"{at + 1} {label}", files.names(number)[1]], width)
        sheet.paste(caption, (left, top))
        sheet.paste(Image.fromarray(image[: int(height)]), (left, top + CAPTION))
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def describe_pages(index: Index, ids: np.ndarray) -> list[str]:
    """Return one line for each page of a sheet: its number, key, id, label, template and size."""
    files, lines = ShardFiles(index), []
    for at, (number, row) in enumerate(zip(ids, index.rows(ids), strict=True)):
        key, page_id = files.names(number)
        names = [key, page_id, index.labels[row["label"]], index.templates[row["template"]] or "-"]
        size = f"{row['width']} x {row['height']} px"
        boxes = f"{row['boxes']} boxes" if row["boxes"] else "picture"
        lines.append("\t".join([f"{at + 1}", *map(one_line, names), size, boxes]))
    return lines


def _caption(texts: list[str], width: int) -> Image.Image:
    """Draw texts below one another, cut off at the width."""
    image = Image.new("L", (width, CAPTION), 255)
    pen = ImageDraw.Draw(image)
    for line, text in enumerate(texts):
        text = one_line(text)[:width]
        draw_text(pen, (0, line * CAPTION // 2), text)
    return image


def draw_text(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int = FONT_SIZE,
    fill: int | tuple[int, int, int] = 0,
) -> None:
    """Draw one line of text in any script; as escapes if no font has all of its characters.

    Args:
        place: left and top, px.
        size: of the font, px.
        fill: its grey or colour.
    """
    text = one_line(text)
    font = _font(text, size)
    if font is None:
        text, font = text.encode("ascii", "backslashreplace").decode(), _font("", size)
    pen.text(place, text, fill=fill, font=font)


def _font(text: str, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont | None:
    """Return a font that has all characters of a text; None if the machine has none."""
    if text.isascii():
        return ImageFont.load_default(size)
    for name in FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        missing = bytes(font.getmask(_NO_CHARACTER))
        if all(bytes(font.getmask(letter)) != missing for letter in set(text)):
            return font
    return None
