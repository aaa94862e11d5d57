"""Draw new pages from the prior.

python -m vaetrain.sample RUN --out PNG [--count N] [--height ROWS] [--seed S]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from shards.errors import UserError
from vaetrain.cli import output_file, whole


def main() -> int:
    """Run the command; the exit status."""
    parser = cli.Parser(
        prog="vaetrain.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--out", type=output_file, required=True, metavar="PNG")
    parser.add_argument("--count", type=whole(1, 1024), default=16, metavar="N", help="default 16")
    parser.add_argument(
        "--height",
        type=whole(1, 32767),
        metavar="ROWS",
        help="of every page, which a latent does not say; default: the run's data.max_height",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    arguments = parser.parse_args()
    sample(arguments.run, arguments.out, arguments.count, arguments.height, arguments.seed)
    return 0


def sample(run: Path, out: Path, count: int, height: int | None, seed: int) -> None:
    """Draw pages of a run's model. Page k is the same however many there are."""
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
    import torch

    from shards.randomness import sample_keys
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.page_pictures import write_sheet

    trained = TrainedModel(run)
    tallest = trained.experiment.data.max_height
    height = tallest if height is None else height
    if height > tallest:
        raise UserError(f"--height: is {height}, the run's model knows pages of 1..{tallest} rows")
    pages = torch.arange(count)
    keys = sample_keys(seed, torch.zeros_like(pages), pages, "prior")
    write_sheet(out, trained.sample(keys, height))


if __name__ == "__main__":
    cli.run("vaetrain.sample", main)
