"""Go from one page to another through the latent space.

    python -m vaetrain.interpolate RUN A B --out PNG [--steps N]

A and B are layouts (.json, or the first of .jsonl) or wireframes (.png). The picture shows A, then
what the model makes of the way from A to B - its reconstructions of them at the ends - and B.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from vaetrain.cli import output_file, whole


def main() -> int:
    """Run the command; the exit status."""
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
        "--steps", type=whole(2, 100), default=8, metavar="N", help="points on the way; default 8"
    )
    arguments = parser.parse_args()
    interpolate(arguments.run, arguments.start, arguments.end, arguments.out, arguments.steps)
    return 0


def interpolate(run: Path, start: Path, end: Path, out: Path, steps: int) -> None:
    """Draw the way between two files: latents along the great circle, heights along a line."""
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
    import torch

    from vaetrain.inference.interpolation import slerp
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.page_pictures import cut_pages, write_sheet

    trained = TrainedModel(run)
    a, b = trained.read_page(start), trained.read_page(end)
    ends = trained.latents([a, b])
    way = slerp(ends[0].flatten(), ends[1].flatten(), steps).view(steps, *ends.shape[1:])
    heights = torch.linspace(a.heights.item(), b.heights.item(), steps).round().long()
    pages = cut_pages(a.images(), a.heights)
    pages += trained.decode(way, heights)
    pages += cut_pages(b.images(), b.heights)
    write_sheet(out, pages, columns=len(pages))


if __name__ == "__main__":
    cli.run("vaetrain.interpolate", main)
