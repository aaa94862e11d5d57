"""Sample new pages from the prior.

python -m vaetrain.sample RUN --out PNG [--count N] [--height ROWS] [--seed S]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from shards.errors import UserError
from vaetrain.cli import output_file, whole


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--out", type=output_file, required=True, metavar="PNG")
    parser.add_argument(
        "--count", type=whole(1, 1024), default=16, metavar="N", help="pages; default 16"
    )
    parser.add_argument(
        "--height",
        type=whole(1, 32767),
        metavar="ROWS",
        help="height of every page, which the latent does not contain; "
        "default: the run's data.max_height",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    sample(parser.parse_args())
    return 0


def sample(arguments: argparse.Namespace) -> None:
    """Sample the pages and write them as one contact sheet."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.page_pictures import write_sheet

    trained = TrainedModel(arguments.run)
    max_height = trained.experiment.data.max_height
    height = max_height if arguments.height is None else arguments.height
    if height > max_height:
        raise UserError(
            f"--height: is {height}; the run's model was trained on pages of 1..{max_height} rows"
        )
    write_sheet(arguments.out, trained.sample(arguments.count, height, arguments.seed))


if __name__ == "__main__":
    cli.run("vaetrain.sample", main)
