"""Interpolate between two pages through the latent space.

    python -m vaetrain.interpolate RUN A B --out PNG [--steps N]

A and B are layouts (.json, or the first line of .jsonl) or wireframes (.png). The picture shows A,
N decoded pages from the reconstruction of A to that of B, and B. Latents lie on a great circle,
heights on a line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from vaetrain.cli import output_file, whole


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
    parser.add_argument("--out", type=output_file, required=True, metavar="PNG")
    parser.add_argument(
        "--steps",
        type=whole(2, 100),
        default=8,
        metavar="N",
        help="decoded pages, both ends included; default 8",
    )
    interpolate(parser.parse_args())
    return 0


def interpolate(arguments: argparse.Namespace) -> None:
    """Interpolate between the files and write the picture."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.inference.interpolation import interpolate_files
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.page_pictures import write_sheet

    trained = TrainedModel(arguments.run)
    pictures = interpolate_files(trained, arguments.start, arguments.end, arguments.steps)
    write_sheet(arguments.out, pictures, columns=len(pictures))
    trained.report_threads()


if __name__ == "__main__":
    cli.run("vaetrain.interpolate", main)
