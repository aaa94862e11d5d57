"""Build shards: read layouts or pictures, write WebDataset tars and their index.

    python -m shards.build layouts/ --out data/layouts
    python -m shards.build --format synthetic --count 10000 --out data/synthetic

SOURCE is a file of JSON lines (.jsonl), layouts or a file of another tool, such as Figma (.json,
.xml), a picture (.png, .jpg), a tar of such files (.tar, .tar.gz), or a folder of them; text files
may be compressed (.gz). Each is recognised by its content, see docs/data.md. The same pages and
seed give the same bytes for any number of workers and any order of the files. The output folder is
created only when it is complete. Its `rejects.jsonl` lists every input that was refused or is a
duplicate, with the reason.
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

from shards.atomic_files import sync_path
from shards.building.assemble import Assembled, assemble
from shards.building.inputs import Input, Reject, describe_suffixes
from shards.building.options import SPLIT_KEYS, BuildOptions
from shards.building.sources import (
    Found,
    describe_nothing,
    find_files,
    generated_inputs,
    read_inputs,
)
from shards.building.workers import start_workers
from shards.cli import Parser, run
from shards.cores import count_cores
from shards.errors import UserError, one_line
from shards.format.index import REJECTS_NAME, STORES
from shards.format.layout import MAX_TEXT
from shards.source_formats import format_choices, generator_of


@dataclass(frozen=True)
class BuildReport(Assembled):
    """Summary of a build and its folder; as text, the output of the command.

    val_fraction: share of validation pages that was requested.
    """

    folder: Path
    val_fraction: float

    def __str__(self) -> str:
        counts = self.counts
        lines = [
            f"read {counts['read']}, kept {counts['kept']}, rejected {counts['rejected']}",
            f"duplicates removed: {counts['duplicates']} exact, {counts['near_duplicates']} near",
            f"split by {self.split_by}: {counts['train']} train, {counts['val']} val",
            f"{self.shards} shards, {self.bytes} bytes, in {self.folder}",
        ]
        if counts["val"] == 0 and self.val_fraction > 0:
            lines.append(self._describe_missing_validation())
        if counts["read"] > counts["kept"]:
            lines.append(f"reasons for rejected inputs: {self.folder / REJECTS_NAME}")
        return "\n".join(map(one_line, lines + self.notes))

    def _describe_missing_validation(self) -> str:
        if self.counts["kept"] == 1:
            return "no validation pages: there is a single page; add others"
        remedy = f"add pages of another {self.split_by}, or build with --split-by sample"
        return f"no validation pages: all pages have one {self.split_by}; {remedy}"

    @property
    def notes(self) -> list[str]:
        """One line on each kind of content that was changed or left out."""
        counts, lines = self.counts, []
        if counts["skipped_nodes"]:
            lines.append(f"nodes skipped, invisible or without area: {counts['skipped_nodes']}")
        if counts["blank_pictures"]:
            lines.append(
                f"blank pictures, all pixels of one value: {counts['blank_pictures']}; the first: "
                f"{self.first_blank}"
            )
        if counts["shortened_texts"]:
            lines.append(
                f"ids, labels and other texts of more than {MAX_TEXT} characters, shortened to a "
                f"hash at their end: {counts['shortened_texts']}"
            )
        if self.others:
            lines.append(f"other files, ignored: {describe_suffixes(self.others)}")
        return lines


def build(sources: Sequence[str | Path], out: str | Path, options: BuildOptions) -> BuildReport:
    """Build shards of `sources` in the new folder `out`.

    Raises `UserError` if the options are invalid or no input is usable, and `OSError` if the
    disk fails. In these cases, and on Ctrl-C, no file is left behind.
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
        with start_workers(options.workers or count_cores()) as workers:
            done = assemble(folder, found, inputs, options, workers)
        shutil.rmtree(folder / "spool")
        sync_path(folder)
        _rename(folder, out)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, probably for lack of memory; lower --workers"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return BuildReport(**vars(done), folder=out, val_fraction=options.val_fraction)


def _inputs(
    sources: Sequence[Path], options: BuildOptions
) -> tuple[Found, Iterator[Input | Reject]]:
    generator = generator_of(options.format)
    if generator is not None:
        if sources:
            raise UserError(f"--format {options.format} generates its pages; give no SOURCE")
        return Found([]), generated_inputs(generator, options.count)
    if not sources:
        raise UserError("no SOURCE given; name a file or a folder, or use --format synthetic")
    found = find_files(sources, options.format)
    if not found.files and not found.rejects:
        raise UserError(describe_nothing(sources, found))
    return found, islice(read_inputs(found), options.count)


def _rename(folder: Path, out: Path) -> None:
    try:
        folder.rename(out)
    except OSError:
        if out.exists():
            raise UserError(
                f"{out}: was created by another process meanwhile; choose another --out"
            ) from None
        raise
    sync_path(out.parent)


def _parser() -> Parser:
    parser = Parser(
        prog="shards.build", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    default = BuildOptions()
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", type=Path, help="files or folders of layouts")
    add("--out", metavar="DIR", required=True, type=Path, help="new folder for the shards")
    add(
        "--format",
        choices=format_choices(),
        default=default.format,
        help="format of the inputs; auto: all files, layout: JSON of any schema (default auto)",
    )
    add("--store", choices=STORES, help="content of the shards (default boxes; png for pictures)")
    add(
        "--png-width",
        metavar="PX",
        type=int,
        default=default.png_width,
        help="width of stored pictures (default 256)",
    )
    add(
        "--count",
        metavar="N",
        type=int,
        help="maximum number of inputs to read, or number of pages to generate",
    )
    add(
        "--val-fraction",
        metavar="F",
        type=float,
        default=default.val_fraction,
        help="share of validation pages (default 0.1)",
    )
    add(
        "--split-by",
        choices=SPLIT_KEYS,
        help="pages with the same value of this key stay together in train or val (default: "
        "template if the pages have one, else source)",
    )
    add("--keep-duplicates", action="store_true", help="keep pages that repeat another page")
    add(
        "--shard-mb",
        metavar="MB",
        type=float,
        default=default.shard_mb,
        help="size of a shard in MiB (default 32)",
    )
    add("--workers", metavar="N", type=int, help="number of processes (default: one per core)")
    add(
        "--seed",
        metavar="S",
        type=int,
        default=default.seed,
        help="seed of split, order and generator (default 0)",
    )
    return parser


def _main() -> int:
    arguments = vars(_parser().parse_args())
    sources, out = arguments.pop("sources"), arguments.pop("out")
    print(build(sources, out, BuildOptions(**arguments)))
    return 0


if __name__ == "__main__":
    run("shards.build", _main)
