"""Interpolate between two pages through the latent space.

    python -m vaetrain.interpolate RUN A B --out PNG_OR_FOLDER [--steps N]
        [--layouts FILE.jsonl] [--svg DIR]

A and B are layouts (.json, or the first line of .jsonl) or wireframes (.png). A picture shows A, N
decoded pages from the reconstruction of A to that of B, and B. A folder (a name that ends with / or
is a folder) gets one PNG for each decoded page, whose grey value is the nesting depth / 40.
`--layouts` and `--svg` write the boxes that are found in the decoded pages. Latents lie on a great
circle, heights on a line. If the run's prior has a detail, the decoded pages are drawn with it, as
samples are; all of them have the same random numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from vaetrain.cli import add_layout_options, is_folder, picture_or_folder, whole


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.interpolate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("start", type=Path, metavar="A", help="layout or PNG file")
    parser.add_argument("end", type=Path, metavar="B", help="layout or PNG file")
    parser.add_argument("--out", type=picture_or_folder, required=True, metavar="PNG_OR_FOLDER")
    parser.add_argument(
        "--steps",
        type=whole(2, 100),
        default=8,
        metavar="N",
        help="decoded pages, both ends included; default 8",
    )
    add_layout_options(parser)
    interpolate(parser.parse_args())
    return 0


def interpolate(arguments: argparse.Namespace) -> None:
    """Interpolate between the files and write the picture or the pages."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.inference.interpolation import interpolate_pages
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.layouts.page_files import PageFiles
    from vaetrain.page_pictures import cut_pages, depth_pages, write_sheet

    trained = TrainedModel(arguments.run)
    ends = [trained.read_page(path) for path in (arguments.start, arguments.end)]
    batches = list(interpolate_pages(trained, ends, arguments.steps))
    folder = arguments.out if is_folder(arguments.out) else None
    with PageFiles(folder, arguments.layouts, arguments.svg) as files:
        pages = [page for batch in batches for page in depth_pages(*batch)]
        for number, page in enumerate(pages):
            files.write(f"page-{number:05}", page, {"id": f"step-{number:05}"})
    if folder is None:
        first, last = (cut_pages(page.images(), page.heights) for page in ends)
        decoded = [page for batch in batches for page in cut_pages(*batch)]
        pictures = first + decoded + last
        write_sheet(Path(arguments.out), pictures, columns=len(pictures))
    trained.report_threads()


if __name__ == "__main__":
    cli.run("vaetrain.interpolate", main)
