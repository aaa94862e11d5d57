"""Sample new pages from the prior of a run.

    python -m vaetrain.sample RUN --out PNG_OR_FOLDER [--count N] [--height ROWS] [--label L]
        [--seed S] [--layouts FILE.jsonl] [--svg DIR]

With a fitted prior (settings `prior.*`) the pages have heights like those of the training pages.
Without one, latents are drawn from the standard normal distribution, and the height is the run's
data.max_height. A file gets all pages as one contact sheet; a folder (a name that ends with / or is
a folder) gets one PNG a page, whose grey value is the nesting depth / 40. `--layouts` and `--svg`
write the boxes that are found in the pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from shards.errors import UserError
from vaetrain.cli import add_layout_options, is_folder, picture_or_folder, whole


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--out", type=picture_or_folder, required=True, metavar="PNG_OR_FOLDER")
    parser.add_argument(
        "--count", type=whole(1, 1024), default=16, metavar="N", help="pages; default 16"
    )
    parser.add_argument(
        "--height",
        type=rows_or_auto,
        metavar="ROWS",
        help="height of every page; default: auto, drawn for each page",
    )
    parser.add_argument(
        "--label", metavar="L", help="label that the pages should have; needs a fitted prior"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    add_layout_options(parser)
    sample(parser.parse_args())
    return 0


def sample(arguments: argparse.Namespace) -> None:
    """Sample the pages and write them as one contact sheet, or one file each."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.layouts.page_files import PageFiles
    from vaetrain.page_pictures import cut_pages, depth_pages, write_sheet

    trained = TrainedModel(arguments.run)
    max_height, height = trained.experiment.data.max_height, arguments.height
    if height is not None and height > max_height:
        raise UserError(
            f"--height: is {height}; the run's model was trained on pages of 1..{max_height} rows"
        )
    batches = trained.sample(arguments.count, height, arguments.seed, arguments.label)
    folder = arguments.out if is_folder(arguments.out) else None
    texts = {} if arguments.label is None else {"label": arguments.label}
    sheet = []
    number = 0
    with PageFiles(folder, arguments.layouts, arguments.svg) as files:
        for images, heights in batches:
            for page in depth_pages(images, heights):
                page_id = f"sample-{arguments.seed}-{number:05}"
                files.write(f"page-{number:05}", page, {"id": page_id, **texts})
                number += 1
            if folder is None:
                sheet += cut_pages(images, heights)
    if folder is None:
        write_sheet(Path(arguments.out), sheet)
    trained.report_threads()


def rows_or_auto(text: str) -> int | None:
    """Parse a height in rows; None for `auto`."""
    return None if text == "auto" else whole(1, 32767)(text)


if __name__ == "__main__":
    cli.run("vaetrain.sample", main)
