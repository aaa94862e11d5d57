"""Print the contents of shards or of a source file, and draw a contact sheet of the pages.

    python -m shards.inspect data/sample --sheet sheet.png
    python -m shards.inspect window_dump.xml --sheet page.png

PATH is a folder or address of shards, one shard, or any file or folder that `shards.build` reads.
Pages of a source are drawn as training would get them from its shards: at most 256 inputs are read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from shards import cli, errors
from shards.format.index import HEADER_NAME, REJECTS_NAME, Index
from shards.format.layout import scaled_height
from shards.open import open_index

THUMBNAIL = (160, 240)  # width and largest height of a page of shards on the sheet, px
AS_TRAINED = (128, 512)  # the same for a source: the defaults of data.width and data.max_height
MAX_INPUTS = 256
SHOWN_REJECTS = 10


def main() -> int:
    """Run the command and return the exit status."""
    parser = cli.Parser(
        prog="shards.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=cli.location, metavar="PATH", help="shards or a source")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="file for the contact sheet")
    arguments = parser.parse_args()
    if _is_source(arguments.path):
        _inspect_source(arguments.path, arguments.sheet)
        return 0
    folder, ids = arguments.path, None
    if isinstance(folder, Path) and folder.is_file():
        folder, ids = folder.parent, _ids_of_shard(folder)
    index = open_index(folder)
    for line in describe(index):
        print(line)
    _show(index, ids or range(len(index)), arguments.sheet, THUMBNAIL)
    return 0


def _is_source(path: str | Path) -> bool:
    """Return whether a path is a source of `shards.build`, and not shards."""
    if isinstance(path, str) or not path.exists():
        return False
    if path.is_file():
        return _ids_of_shard(path) is None
    return not (path / HEADER_NAME).exists() and any(path.iterdir())


def _ids_of_shard(path: Path) -> range | None:
    """Return the sample ids of a shard that lies beside its index; None for another file."""
    if not (path.parent / HEADER_NAME).exists() or path.suffix != ".tar":
        return None
    shards = open_index(path.parent).shards
    found = [shard for shard in shards if shard.name == path.name]
    return range(found[0].first, found[0].first + found[0].samples) if found else None


def _inspect_source(path: Path, sheet: Path | None) -> None:
    """Build shards of a source in a temporary folder and print what is in them."""
    from shards.build import build
    from shards.building.options import BuildOptions

    options = BuildOptions(count=MAX_INPUTS, keep_duplicates=True, val_fraction=0, workers=1)
    with tempfile.TemporaryDirectory(prefix="inspect-") as folder:
        out = Path(folder).resolve() / "shards"
        report = build([path], out, options)
        index = open_index(out)
        counts = report.counts
        print(f"{path}: {len(index)} pages; {counts['rejected']} inputs refused")
        rejects = [json.loads(line) for line in (out / REJECTS_NAME).open()]
        for reject in rejects[:SHOWN_REJECTS]:
            names = [str(reject[key]) for key in ("member", "line", "id") if key in reject]
            print(errors.one_line(": ".join(["refused", *names, reject["reason"]])))
        for line in map(errors.one_line, report.notes):
            print(line)
        for line in describe(index)[2:]:
            print(line)
        _show(index, range(len(index)), sheet, AS_TRAINED)


def _show(index: Index, ids: range, sheet: Path | None, size: tuple[int, int]) -> None:
    """Print the names of the pages on the contact sheet, and draw it."""
    if sheet is None:
        return
    # Imported only if a sheet is drawn: torch takes seconds.
    from shards.contact_sheet import chosen_pages, describe_pages, draw_sheet

    chosen = chosen_pages(ids)
    draw_sheet(index, chosen, sheet, size)
    print(f"{sheet}: number, key, id, label, template, canvas and boxes of its pages:")
    for line in describe_pages(index, chosen):
        print(line)


def describe(index: Index) -> list[str]:
    """Return one line each on counts, sizes, labels and templates.

    Raises DamagedShards as `Index.rows` does.
    """
    table = index.rows(np.arange(len(index)))
    size = sum(shard.bytes for shard in index.shards)
    heights = scaled_height(table["width"], table["height"], 128)
    lines = [
        f"{index.location}: {len(index)} samples ({len(index.ids('train'))} train, "
        f"{len(index.ids('val'))} val) in {len(index.shards)} shards",
        f"stored: {index.header['store']}; {size / 1e6:.1f} MB, {size / len(index):.0f} bytes each",
        "widths: " + _format_counts(Counter(table["width"].tolist())),
        "labels: " + _format_counts(Counter(index.labels[number] for number in table["label"])),
        "templates: "
        + _format_counts(Counter(index.templates[n] or "-" for n in table["template"])),
    ]
    for name, values in (
        ("height, canvas px", table["height"]),
        ("height at 128 px width", heights),
        ("boxes", table["boxes"]),
    ):
        quantiles = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).astype(int)
        lines.append(f"{name}, min 5% 25% 50% 75% 95% max: {' '.join(map(str, quantiles))}")
    return lines


def _format_counts(counter: Counter, limit: int = 30) -> str:
    parts = [f"{errors.one_line(str(name))} {count}" for name, count in counter.most_common(limit)]
    rest = len(counter) - limit
    return ", ".join(parts) + (f" and {rest} more" if rest > 0 else "")


if __name__ == "__main__":
    cli.run("shards.inspect", main)
