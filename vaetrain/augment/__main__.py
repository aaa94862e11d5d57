"""Draw a contact sheet of every augmentation, at three strengths where it has strengths.

python -m vaetrain.augment data/sample --sheet augmentations.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from shards.errors import UserError
from shards.open import open_index
from vaetrain.augmentation.operations import OPS, Op
from vaetrain.augmentation.policy import OpSettings, Policy

WIDTH, ROWS = 128, 160  # pixels of a page on the sheet
LEVELS = (1 / 3, 2 / 3, 1.0)  # of each operation's full strength
COLUMNS = 3  # operations side by side
CAPTION, GAP = 14, 6  # pixels
UNCHANGED = "untouched"


def main() -> int:
    """Run the command and return its exit status."""
    parser = cli.Parser(
        prog="vaetrain.augment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", type=Path, metavar="DIR", help="folder of built shards")
    parser.add_argument("--sheet", type=Path, metavar="PNG", required=True, help="file to write")
    parser.add_argument("--page", type=int, default=0, metavar="ID", help="sample id of the page")
    arguments = parser.parse_args()
    draw_sheet(arguments.shards, arguments.page, arguments.sheet)
    return 0


def strengths_of(op: Op) -> list[float]:
    """Return the strengths to draw an operation at; a single one if strength changes nothing."""
    return [level * op.full for level in LEVELS] if op.is_graded else [op.full]


def draw_sheet(shards: Path, page: int, path: Path) -> None:
    """Draw one page under each operation by itself; raises UserError or DamagedShards."""
    # Imported here because torch takes seconds, and `--help` must not wait for it.
    import numpy as np
    from PIL import Image, ImageDraw

    from shards.reading.collator import Collator
    from shards.reading.shard_files import ShardFiles
    from vaetrain.augmentation.pipeline import Augment
    from vaetrain.page_pictures import as_grey

    index = open_index(shards)
    if not 0 <= page < len(index):
        raise UserError(f"--page: {page} is not a sample id; allowed: 0 to {len(index) - 1}")
    collator = Collator(
        ShardFiles(index), width=WIDTH, max_height=ROWS, ladder=np.array([ROWS]), seed=0
    )
    batch = collator.batch(np.array([page]), np.array([0]), training=False)
    height = int(batch.heights)
    cell = (len(LEVELS) * (WIDTH + GAP) + 2 * GAP, height + CAPTION + GAP)
    rows = -(-(len(OPS) + 1) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * cell[0] + GAP, rows * cell[1] + GAP), 255)
    pen = ImageDraw.Draw(sheet)
    for place, name in enumerate((UNCHANGED, *OPS)):
        left = GAP + place % COLUMNS * cell[0]
        top = GAP + place // COLUMNS * cell[1]
        strengths = strengths_of(OPS[name]) if name in OPS else []
        captions = [f"{strength:.2g}" for strength in strengths]
        pen.text((left, top), f"{name} {' / '.join(captions)}", fill=0)
        policies = [Policy({name: OpSettings(1.0, strength)}) for strength in strengths]
        for column, policy in enumerate(policies or [Policy({})]):
            inputs, _ = Augment(policy)(batch, seed=0)
            picture = Image.fromarray(as_grey(inputs)[0, :height])
            sheet.paste(picture, (left + column * (WIDTH + GAP), top + CAPTION))
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


if __name__ == "__main__":
    cli.run("vaetrain.augment", main)
