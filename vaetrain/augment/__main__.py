"""Draw a contact sheet of every augmentation at three strengths.

python -m vaetrain.augment data/sample --sheet augmentations.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from shards.errors import UserError
from shards.open import open_index
from vaetrain.augmentation.policy import OPS, Chance, Policy

WIDTH, ROWS = 128, 160  # pixels of a page on the sheet
LEVELS = (1 / 3, 2 / 3, 1.0)  # of each operation's full strength
COLUMNS = 3  # operations side by side
CAPTION, GAP = 14, 6  # pixels


def main() -> int:
    """Run the command; the exit status."""
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


def draw_sheet(shards: Path, page: int, path: Path) -> None:
    """Draw one page under every operation alone; raises UserError or DamagedShards in one line."""
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
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
    step = (len(LEVELS) * (WIDTH + GAP) + 2 * GAP, height + CAPTION + GAP)
    lines = -(-(len(OPS) + 1) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * step[0] + GAP, lines * step[1] + GAP), 255)
    pen = ImageDraw.Draw(sheet)
    for place, name in enumerate(("untouched", *OPS)):
        left = GAP + place % COLUMNS * step[0]
        top = GAP + place // COLUMNS * step[1]
        told = [f"{level * OPS[name].full:.2g}" for level in LEVELS] if name in OPS else []
        pen.text((left, top), f"{name} {' / '.join(told)}", fill=0)
        for column, level in enumerate(LEVELS if name in OPS else LEVELS[:1]):
            chances = {name: Chance(1.0, level * OPS[name].full)} if name in OPS else {}
            inputs, _ = Augment(Policy(chances))(batch, seed=0)
            picture = Image.fromarray(as_grey(inputs)[0, :height])
            sheet.paste(picture, (left + column * (WIDTH + GAP), top + CAPTION))
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


if __name__ == "__main__":
    cli.run("vaetrain.augment", main)
