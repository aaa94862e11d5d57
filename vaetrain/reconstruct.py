"""Reconstruct the pages of shards: one picture a page, and layouts on request.

    python -m vaetrain.reconstruct RUN --shards DIR --out FOLDER [--split val|train|all]
        [--latent all|vector] [--refine STEPS] [--limit N] [--layouts FILE.jsonl] [--svg DIR]

FOLDER gets one PNG a page, whose grey value is the nesting depth / 40. Its name is the page's
number in the shards and its key. Pages are as wide as the run's data.width and at most
data.max_height rows high. They are decoded from `mu` and, if the model has them, skip connections
or the levels of a ladder; `--latent vector` decodes from `mu` alone. It then first improves `mu` by
gradient steps, as the encoder finds only a part of what a vector can say about pages unlike those
of the training. `--layouts` and `--svg` write the boxes that are found in the reconstructions, with
the pages' own ids, labels and templates. Pages are chosen as by `vaetrain.evaluate`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards import cli
from shards.errors import DamagedShards, UserError
from vaetrain.cli import add_layout_options, output_folder, whole

if TYPE_CHECKING:
    from vaetrain.data.loading import PageReader


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.reconstruct",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument("--out", type=output_folder, required=True, metavar="FOLDER")
    parser.add_argument(
        "--split",
        choices=("val", "train", "all"),
        default="all",
        help="pages to reconstruct; default all",
    )
    parser.add_argument(
        "--latent",
        choices=("all", "vector"),
        default="all",
        help="decode from everything that the encoder gives, or from `mu` alone; default all",
    )
    parser.add_argument(
        "--refine",
        type=whole(0, 10_000),
        metavar="STEPS",
        help="gradient steps that improve each page's `mu`; default 40 for --latent vector, a "
        "second a page on a CPU core, 0 for all",
    )
    parser.add_argument(
        "--limit",
        type=whole(1, 10**9),
        metavar="N",
        help="at most N pages, evenly spaced by number; default: all",
    )
    add_layout_options(parser)
    reconstruct(parser.parse_args())
    return 0


def reconstruct(arguments: argparse.Namespace) -> None:
    """Reconstruct the pages and write their files."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.data.loading import EVALUATION_BATCH
    from vaetrain.inference.refinement import STEPS
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.layouts.page_files import PageFiles, file_name
    from vaetrain.page_pictures import depth_pages

    trained = TrainedModel(arguments.run)
    trained.require_one_process("vaetrain.reconstruct")
    data = trained.open_shards(arguments.shards)
    pages = data.select(arguments.split)
    if len(pages) == 0:
        raise UserError(f"{arguments.shards}: has no pages of the split {arguments.split!r}")
    if arguments.limit is not None:
        pages = pages.spaced(arguments.limit)
    skips, steps = arguments.latent == "all", arguments.refine
    if steps is None:
        steps = 0 if skips else STEPS
    total, count = -(-len(pages) // EVALUATION_BATCH), len(data.index)
    batches = cli.progress(data.pages(pages), total=total, desc="reconstructing", unit="batch")
    with PageFiles(arguments.out, arguments.layouts, arguments.svg) as files:
        for batch in batches:
            batch = batch.to(trained.engine.device)
            if steps:
                made, _ = trained.reconstruct_refined(batch, steps, skips=skips)
            else:
                made = trained.reconstruct(batch, skips=skips)
            for number, page in zip(
                batch.ids.tolist(), depth_pages(made, batch.heights), strict=True
            ):
                key, texts = _names(data, number)
                files.write(file_name(number, count, key), page, texts)
    print(f"{arguments.out}: {len(pages)} pages")
    trained.report_threads()


def _names(data: PageReader, number: int) -> tuple[str, dict[str, Any]]:
    """Return the key of a page and the texts of its layout; raise DamagedShards."""
    from shards.format.layout import BadLayout
    from shards.format.metadata import TEXT_KEYS, metadata_of

    files = data.collator.files
    key, _ = files.names(number)
    try:
        meta = metadata_of(files.metadata(number))
    except BadLayout as error:
        raise DamagedShards(f"{data.index.location}: sample {number}: {error}") from error
    return key, {name: meta[name] for name in TEXT_KEYS if name in meta}


if __name__ == "__main__":
    cli.run("vaetrain.reconstruct", main)
