"""Embed shards: write the embedding and the latent of every page.

    python -m vaetrain.embed RUN --shards DIR --out FILE.npz

FILE.npz has one row a page: `embedding` (N, E) float32, whose distances measure how unlike pages
are; `mu` (N, D) float32, the posterior mean; `ids` (N,), the sample ids; and the texts `keys`,
`page_ids` (the pages' own ids), `labels` and `templates` (N,). `embedding_name` is the name of the
embedding's definition. The file loads without pickle:

    pages = numpy.load("FILE.npz")
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from vaetrain.cli import output_file


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument("--out", type=output_file, required=True, help="NPZ file to write")
    embed(parser.parse_args())
    return 0


def embed(arguments: argparse.Namespace) -> None:
    """Embed all pages and write them."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    import numpy as np

    from vaetrain.inference.embedding import embedding_arrays
    from vaetrain.inference.trained_model import TrainedModel

    trained = TrainedModel(arguments.run)
    data = trained.open_shards(arguments.shards)
    features = trained.features(data)
    arrays = embedding_arrays(features, trained.space_for(features), data)
    with arguments.out.open("wb") as stream:
        np.savez(stream, **arrays)
    pages, dimensions = arrays["embedding"].shape
    print(f"{arguments.out}: {pages} pages, {dimensions} dimensions")
    trained.report_threads()


if __name__ == "__main__":
    cli.run("vaetrain.embed", main)
