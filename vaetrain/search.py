"""Find the pages of some shards that are most like a given one.

    python -m vaetrain.search RUN --shards DIR --query LAYOUT_OR_PNG [--top K] [--sheet PNG]

Prints a line for each page, nearest first: key, label, template and distance, separated by tabs.
The distance, from 0 to 2.45, compares the pages' latents and what the encoder's first map shows of
their boxes (`vaetrain.model.similarity`). The query is a layout (.json, the first of .jsonl) or a
wireframe (.png); the sheet shows it first, then the pages in order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from vaetrain.cli import output_file, whole


def main() -> int:
    """Run the command; the exit status."""
    parser = cli.Parser(
        prog="vaetrain.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument(
        "--query", type=Path, required=True, metavar="LAYOUT_OR_PNG", help="what to look for"
    )
    parser.add_argument("--top", type=whole(1, 1000), default=10, metavar="K", help="default 10")
    parser.add_argument("--sheet", type=output_file, metavar="PNG", help="draw the pages here")
    arguments = parser.parse_args()
    search(arguments.run, arguments.shards, arguments.query, arguments.top, arguments.sheet)
    return 0


def search(run: Path, shards: str | Path, query: Path, top: int, sheet: Path | None) -> None:
    """Print the pages nearest to a file, at most `top`, and draw them if there is a `sheet`."""
    # Imported only now: torch takes seconds, and `--help` must not wait for it.
    import numpy as np

    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.model.similarity import Similarity
    from vaetrain.page_pictures import cut_pages, write_sheet

    trained = TrainedModel(run)
    page = trained.read_page(query)
    data = trained.open_shards(shards)
    ids, mu, logvar, structure = trained.search_features_of_shards(data)
    space = Similarity(mu, logvar, structure)
    asked_mu, _, asked_structure = (tensor.cpu() for tensor in trained.search_features(page))
    asked = space.vectors(asked_mu, asked_structure)
    distances = (space.vectors(mu, structure) - asked).norm(dim=1)
    nearest = distances.argsort(stable=True)[:top]
    found, index = ids[nearest].numpy(), data.index
    for number, distance in zip(found, distances[nearest].tolist(), strict=True):
        key, row = data.collator.files.key(number), index.table[number]
        label, template = index.labels[row["label"]], index.templates[row["template"]]
        print(_plain(key), _plain(label), _plain(template), f"{distance:.6g}", sep="\t")
    if sheet is not None:
        batch = data.collator.batch(found, np.zeros_like(found), training=False)
        pages = cut_pages(page.images(), page.heights)
        write_sheet(sheet, pages + cut_pages(batch.images(), batch.heights))


def _plain(text: str) -> str:
    # A label may hold anything, also a tab or what a terminal takes for a command.
    return "".join(letter if letter.isprintable() else " " for letter in text)


if __name__ == "__main__":
    cli.run("vaetrain.search", main)
