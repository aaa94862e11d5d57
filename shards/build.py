"""Build shards: layouts or pictures in, WebDataset tars and their index out.

    python -m shards.build layouts/ --out data/layouts
    python -m shards.build --format synthetic --count 10000 --out data/synthetic

SOURCE is a file of JSON lines (.jsonl, .jsonl.gz), a layout (.json), a picture (.png), or a folder
of any of these. The same pages and seed give the same bytes, whatever the number of workers and the
order of the files. The folder appears whole or not at all; `rejects.jsonl` in it names every input
that was refused or repeats another, and why.
"""

from __future__ import annotations

import os
import shutil
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from shards.building.assemble import Assembled, assemble
from shards.building.options import SPLIT_KEYS, BuildOptions
from shards.building.sources import (
    FORMATS,
    Found,
    Input,
    Reject,
    find_files,
    generated_inputs,
    read_inputs,
)
from shards.building.workers import start_workers
from shards.cli import Parser, run
from shards.errors import UserError
from shards.format.index import REJECTS_NAME, STORES
from shards.storage import sync_path

_GENERATED = 1000  # pages, where no count is given


@dataclass(frozen=True)
class BuildReport(Assembled):
    """What a build did, with the folder it is in; as text, what the command prints."""

    folder: Path

    def __str__(self) -> str:
        counts = self.counts
        lines = [
            f"read {counts['read']}, kept {counts['kept']}, rejected {counts['rejected']}",
            f"duplicates left out: {counts['duplicates']} exact, {counts['near_duplicates']} near",
            f"split by {self.split_by}: {counts['train']} train, {counts['val']} val",
            f"{self.shards} shards, {self.bytes} bytes, in {self.folder}",
        ]
        if counts["skipped_nodes"]:
            lines.append(f"{counts['skipped_nodes']} invisible or empty RICO nodes skipped")
        if counts["other_files"]:
            lines.append(f"{counts['other_files']} files of other kinds passed over")
        if counts["read"] > counts["kept"]:
            lines.append(f"what was refused, and why: {self.folder / REJECTS_NAME}")
        return "\n".join(lines)


def build(sources: Sequence[str | Path], out: str | Path, options: BuildOptions) -> BuildReport:
    """Build shards of `sources` in the new folder `out`.

    Raises `UserError` if that cannot be done as asked or no input is any good, `OSError` if the
    disk fails. Then, as on Ctrl-C, nothing of it is left behind.
    """
    options.check()
    out = Path(out).resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists already; delete it or choose another --out")
    found, inputs = _inputs([Path(source) for source in sources], options)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.building-{os.getpid()}"
    folder.mkdir()
    try:
        with start_workers(options.workers or os.cpu_count() or 1) as workers:
            done = assemble(folder, found, inputs, options, workers)
        shutil.rmtree(folder / "spool")
        sync_path(folder)
        _rename(folder, out)
    except BrokenProcessPool:
        raise UserError("a worker process was killed; too little memory for --workers?") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return BuildReport(**vars(done), folder=out)


def _inputs(
    sources: Sequence[Path], options: BuildOptions
) -> tuple[Found, Iterator[Input | Reject]]:
    if options.format == "synthetic":
        if sources:
            raise UserError("--format synthetic makes its own pages: give no SOURCE")
        return Found([], [], 0), generated_inputs(options.count or _GENERATED)
    if not sources:
        raise UserError("give a SOURCE, or --format synthetic")
    found = find_files(sources, options.format)
    if not found.files and not found.rejects:
        raise UserError(f"{', '.join(map(str, sources))}: no layouts in there")
    return found, islice(read_inputs(found), options.count)


def _rename(folder: Path, out: Path) -> None:
    try:
        folder.rename(out)
    except OSError:
        if out.exists():
            raise UserError(f"{out}: another process made it meanwhile") from None
        raise
    sync_path(out.parent)


def _parser() -> Parser:
    summary, _, rest = __doc__.partition("\n")
    parser = Parser(
        prog="shards.build",
        description=summary + rest,
        formatter_class=RawDescriptionHelpFormatter,
    )
    default = BuildOptions()
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", type=Path, help="files or folders of layouts")
    add("--out", metavar="DIR", required=True, type=Path, help="folder to make")
    add("--format", choices=FORMATS, default=default.format, help="what to read (default auto)")
    add("--store", choices=STORES, help="what to keep (default boxes; png if all are pictures)")
    add("--png-width", metavar="PX", type=int, default=default.png_width, help="default 256")
    add("--count", metavar="N", type=int, help="inputs to read at most; pages to generate")
    add("--val-fraction", metavar="F", type=float, default=default.val_fraction, help="default 0.1")
    add("--split-by", choices=SPLIT_KEYS, help="never on both sides (default template, or source)")
    add("--keep-duplicates", action="store_true", help="also those that repeat another page")
    add("--shard-mb", metavar="MB", type=float, default=default.shard_mb, help="default 32 (MiB)")
    add("--workers", metavar="N", type=int, help="processes (default: one for each core)")
    add("--seed", metavar="S", type=int, default=default.seed, help="of split and order; default 0")
    return parser


def _main() -> int:
    arguments = vars(_parser().parse_args())
    sources, out = arguments.pop("sources"), arguments.pop("out")
    print(build(sources, out, BuildOptions(**arguments)))
    return 0


if __name__ == "__main__":
    run("shards.build", _main)
