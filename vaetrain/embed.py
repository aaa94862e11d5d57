"""Embed shards: the latent of every page.

    python -m vaetrain.embed RUN --shards DIR --out FILE.npz

FILE.npz holds, a row for each page: `mu` (N, D) float32, the posterior mean; `ids` (N,), the sample
ids; `keys`, `labels` and `templates` (N,), texts. It loads without pickle:

    pages = numpy.load("FILE.npz")
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from vaetrain.cli import output_file


def main() -> int:
    """Run the command; the exit status."""
    parser = cli.Parser(
        prog="vaetrain.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument("--out", type=output_file, required=True, help="NPZ file to write")
    arguments = parser.parse_args()
    pages, dimensions = embed(arguments.run, arguments.shards, arguments.out)
    print(f"{arguments.out}: {pages} pages, {dimensions} dimensions")
    return 0


def embed(run: Path, shards: str | Path, out: Path) -> tuple[int, int]:
    """Write the latents of all pages of some shards; how many there are, of how many dimensions."""
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
    import numpy as np

    from vaetrain.inference.trained_model import TrainedModel

    trained = TrainedModel(run)
    data = trained.open_shards(shards)
    ids, mu = (tensor.numpy() for tensor in trained.search_features_of_shards(data)[:2])
    index, rows = data.index, data.index.rows(ids)
    with out.open("wb") as stream:
        np.savez(
            stream,
            mu=mu,
            ids=ids,
            keys=np.array([data.collator.files.key(number) for number in ids]),
            labels=np.array(index.labels)[rows["label"]],
            templates=np.array(index.templates)[rows["template"]],
        )
    return mu.shape


if __name__ == "__main__":
    cli.run("vaetrain.embed", main)
