"""Find the pages of some shards that are most similar to a given page.

    python -m vaetrain.search RUN --shards DIR --query LAYOUT_OR_PNG [--top K] [--sheet PNG]

Prints one line a page, nearest first: key, label, template, distance and the page's own id,
separated by tabs. Characters of the id that cannot be printed are written as escapes. The distance,
from 0 to 2, is that of the pages' embeddings (`vaetrain.model.embedding`). The query is a layout,
or the first one of a file with several, or a wireframe (.png, .jpg). The sheet shows the query,
then the pages in order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shards import cli
from shards.errors import one_line
from vaetrain.cli import output_file, whole


def main() -> int:
    """Run the command; return the exit status."""
    parser = cli.Parser(
        prog="vaetrain.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--shards", type=cli.location, required=True, help="folder or address")
    parser.add_argument(
        "--query", type=Path, required=True, metavar="LAYOUT_OR_PNG", help="page to search for"
    )
    parser.add_argument(
        "--top", type=whole(1, 1000), default=10, metavar="K", help="pages to find; default 10"
    )
    parser.add_argument(
        "--sheet", type=output_file, metavar="PNG", help="draw the query and the pages here"
    )
    search(parser.parse_args())
    return 0


def search(arguments: argparse.Namespace) -> None:
    """Print the nearest pages, and draw them if a sheet was requested."""
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from vaetrain.inference.search import result_pictures, search_pages
    from vaetrain.inference.trained_model import TrainedModel
    from vaetrain.page_pictures import cut_pages, write_sheet

    trained = TrainedModel(arguments.run)
    query = trained.read_page(arguments.query)
    data = trained.open_shards(arguments.shards)
    results = search_pages(trained, data, query, arguments.top)
    for result in results:
        names = map(_printable, (result.key, result.label, result.template))
        print(*names, f"{result.distance:.6g}", one_line(result.page_id), sep="\t")
    if arguments.sheet is not None:
        pictures = cut_pages(query.images(), query.heights) + result_pictures(data, results)
        write_sheet(arguments.sheet, pictures)
    trained.report_threads()


def _printable(text: str) -> str:
    # A label may contain anything: a tab would break the columns, a terminal runs escape sequences.
    return "".join(letter if letter.isprintable() else " " for letter in text)


if __name__ == "__main__":
    cli.run("vaetrain.search", main)
