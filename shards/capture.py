"""Capture web pages as layouts, in Chromium without a window.

    python -m shards.capture site/ --out layouts.jsonl.gz
    python -m shards.capture https://example.org/ addresses.txt --out layouts.jsonl.gz --widths 390

SOURCE is an HTML file, a folder of them, an address, or a list of addresses (.txt, one a line). A
page is one layout for each width of the window. Requests go to a host one at a time, and robots.txt
is obeyed. The same command, started again, goes on with the pages that are not in the output.
Needs `pip install -e '.[capture]'` and Chromium (`apt-get install chromium` or
`playwright install chromium`).
"""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path

from shards.capturing.output import OutputFile
from shards.capturing.targets import find_targets
from shards.cli import Parser, print_line, progress, run
from shards.errors import UserError, one_line
from shards.format.layout import MAX_SIDE
from shards.optional_dependencies import require


def whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and minimum <= int(text[:12]) <= maximum):
            raise ArgumentTypeError(f"is {text}, must be a whole number in {minimum}..{maximum}")
        return int(text)

    return parse


def widths(text: str) -> tuple[int, ...]:
    """Parse widths of the window, separated by commas; each is kept once."""
    parse = whole(120, 3840)
    return tuple(dict.fromkeys(parse(part.strip()) for part in text.split(",")))


def _parser() -> Parser:
    parser = Parser(
        prog="shards.capture", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="HTML files, folders, addresses, lists")
    add(
        "--out",
        metavar="FILE",
        required=True,
        type=Path,
        help="file of layouts, .jsonl.gz or .jsonl; an existing one is continued",
    )
    add(
        "--widths",
        metavar="PX,PX",
        type=widths,
        default=(1280, 390),
        help="widths of the window (default 1280,390)",
    )
    add(
        "--pages-at-once",
        metavar="N",
        type=whole(1, 64),
        default=4,
        help="number of pages open at the same time, of different hosts (default 4)",
    )
    add(
        "--seconds",
        metavar="S",
        type=whole(1, 3600),
        default=60,
        help="time limit of a page (default 60)",
    )
    add(
        "--max-height",
        metavar="PX",
        type=whole(100, MAX_SIDE // 2),
        default=6000,
        help="a page is cut at this height (default 6000)",
    )
    add(
        "--memory-mb",
        metavar="MB",
        type=whole(64, 1 << 20),
        default=1500,
        help="memory limit of a page (default 1500)",
    )
    add("--browser", metavar="PROGRAM", type=Path, help="Chromium to start (default: as found)")
    add(
        "--no-sandbox",
        action="store_true",
        help="start Chromium without its sandbox (as root always); for trusted pages only",
    )
    return parser


def _main() -> int:
    arguments = _parser().parse_args()
    targets = find_targets(arguments.sources)
    require("playwright", "capture", "shards.capture")
    from shards.capturing.session import CaptureOptions, capture_targets
    from shards.capturing.visit import Limits

    options = CaptureOptions(
        widths=arguments.widths,
        pages_at_once=arguments.pages_at_once,
        limits=Limits(seconds=arguments.seconds, max_height=arguments.max_height),
        memory_mb=arguments.memory_mb,
        browser=arguments.browser,
        sandbox=not arguments.no_sandbox,
    )
    if options.sandbox and os.geteuid() == 0:
        print_line(
            "Chromium runs without its sandbox, because this is root; open trusted pages only"
        )
    total = len(targets) * len(options.widths)
    with OutputFile(arguments.out) as output, progress(total=total, unit="layout") as bar:

        def report(skipped: str) -> None:
            bar.update()
            if skipped:
                bar.write(one_line(skipped))

        summary = asyncio.run(capture_targets(targets, output, options, report))
    print_line(
        f"captured {summary.captured} layouts of {total}, {summary.present} were in "
        f"{arguments.out} already, skipped {summary.skipped.total()}"
    )
    if summary.unfinished:
        print_line(f"{summary.unfinished} captured while the page was still loading or changing")
    for reason, count in summary.skipped.most_common():
        print_line(one_line(f"skipped {count}: {reason}"))
    if summary.captured + summary.present == 0:
        raise UserError("no page was captured; the reasons are above")
    return 0


if __name__ == "__main__":
    run("error", _main)
