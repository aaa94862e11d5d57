"""Print the contents of shards, and draw a contact sheet of their pages.

python -m shards.inspect data/sample --sheet sheet.png
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from shards import cli, errors
from shards.errors import UserError
from shards.format.index import Index
from shards.format.layout import scaled_height
from shards.open import open_index

THUMBNAIL = (160, 240)  # width and largest height of a picture on the sheet, px
COLUMNS, ROWS = 8, 4
CAPTION, GAP = 14, 8  # px
BRIGHTNESS = 2.5  # real pages use less than half of the grey range


def main() -> int:
    """Run the command and return the exit status."""
    parser = cli.Parser(
        prog="shards.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=cli.location, metavar="DIR", help="folder or address")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="file for the contact sheet")
    arguments = parser.parse_args()
    index = open_index(arguments.folder)
    for line in describe(index):
        print(line)
    if arguments.sheet is not None:
        draw_sheet(index, arguments.sheet)
    return 0


def describe(index: Index) -> list[str]:
    """Return one line each on counts, sizes, labels and templates.

    Raises DamagedShards as `Index.rows` does.
    """
    table = index.rows(np.arange(len(index)))
    size = sum(shard.bytes for shard in index.shards)
    heights = scaled_height(table["width"], table["height"], 128)
    lines = [
        f"{index.location}: {len(index)} samples ({len(index.ids('train'))} train, "
        f"{len(index.ids('val'))} val) in {len(index.shards)} shards",
        f"stored: {index.header['store']}; {size / 1e6:.1f} MB, {size / len(index):.0f} bytes each",
        "widths: " + _format_counts(Counter(table["width"].tolist())),
        "labels: " + _format_counts(Counter(index.labels[number] for number in table["label"])),
        "templates: "
        + _format_counts(Counter(index.templates[n] or "-" for n in table["template"])),
    ]
    for name, values in (
        ("height, canvas px", table["height"]),
        ("height at 128 px width", heights),
        ("boxes", table["boxes"]),
    ):
        quantiles = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).astype(int)
        lines.append(f"{name}, min 5% 25% 50% 75% 95% max: {' '.join(map(str, quantiles))}")
    return lines


def _format_counts(counter: Counter, limit: int = 30) -> str:
    parts = [f"{errors.one_line(str(name))} {count}" for name, count in counter.most_common(limit)]
    rest = len(counter) - limit
    return ", ".join(parts) + (f" and {rest} more" if rest > 0 else "")


def draw_sheet(index: Index, path: Path) -> None:
    """Draw pages spread evenly over the shards, each with its label, to a PNG file.

    Raises UserError if the file cannot be written.
    """
    # Imported only if a sheet is drawn: torch takes seconds.
    from PIL import Image, ImageDraw

    from shards.reading.collator import Collator
    from shards.reading.height_ladder import height_ladder
    from shards.reading.shard_files import ShardFiles

    width, max_height = THUMBNAIL
    ids = np.unique(np.linspace(0, len(index) - 1, COLUMNS * ROWS).round().astype(np.int64))
    ladder = height_ladder(max_height, 16)
    files = ShardFiles(index)
    collator = Collator(files, width=width, max_height=max_height, ladder=ladder, seed=0)
    batch = collator.batch(ids, np.zeros_like(ids), training=False)
    images = (batch.images()[:, 0] * (255 * BRIGHTNESS)).clamp(0, 255).byte().numpy()
    step = (width + GAP, max_height + CAPTION + GAP)
    sheet = Image.new("L", (COLUMNS * step[0] + GAP, ROWS * step[1] + GAP), 255)
    pen = ImageDraw.Draw(sheet)
    for at, (number, image, height) in enumerate(zip(ids, images, batch.heights, strict=True)):
        left = GAP + at % COLUMNS * step[0]
        top = GAP + at // COLUMNS * step[1]
        pen.text((left, top), index.labels[index.table["label"][number]][:26], fill=0)
        sheet.paste(Image.fromarray(image[: int(height)]), (left, top + CAPTION))
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


if __name__ == "__main__":
    cli.run("shards.inspect", main)
