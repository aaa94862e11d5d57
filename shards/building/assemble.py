"""Steps of a build in their order: read, remove duplicates, split, plan, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.building import plan, split
from shards.building.contents import is_picture
from shards.building.dedupe import CELLS, find_duplicates
from shards.building.inputs import Input, Reject
from shards.building.options import BuildOptions
from shards.building.pages import Page, PageReader
from shards.building.sources import Found, chunks, first_input
from shards.building.spool import Spools
from shards.building.workers import Workers
from shards.building.writer import (
    Entry,
    ShardPlan,
    WrittenShard,
    write_index,
    write_rejects,
    write_shard,
)
from shards.cli import progress
from shards.errors import UserError, one_line
from shards.format.index import RECORD, SCHEMA, SPLITS

COUNTS = ("read", "kept", "rejected", "duplicates", "near_duplicates", "train", "val")
COUNTS += ("skipped_nodes", "other_files", "blank_pictures", "shortened_texts")


@dataclass(frozen=True)
class Assembled:
    """Facts about the written shards.

    counts: numbers of pages and files by the names of `COUNTS`.
    split_by: key that the split is by.
    shards: number of tars.
    bytes: size of the tars.
    others: numbers of files of other kinds by suffix.
    first_blank: file, or file and member, of the first blank picture; None: there is none.
    """

    counts: dict[str, int]
    split_by: str
    shards: int
    bytes: int
    others: Counter[str]
    first_blank: str | None


@dataclass(frozen=True)
class _PlannedShard:
    """A shard to be written: its file name, split, and the numbers of its pages."""

    name: str
    split: str
    pages: list[int]


def assemble(
    folder: Path,
    found: Found,
    inputs: Iterable[Input | Reject],
    options: BuildOptions,
    workers: Workers,
) -> Assembled:
    """Write all files of a folder of shards, and `folder / "spool"`, which the caller removes.

    Raises `UserError` if no input is usable, or if they are more than an index can hold.
    """
    spool = folder / "spool"
    spool.mkdir()
    store = options.store or _default_store(found)
    reader = PageReader(
        store, options.png_width, options.format, options.split_by, options.seed, spool
    )
    rejects = list(found.rejects)
    pages = _read(inputs, reader, options.count, workers, rejects)
    counts = Counter(read=len(pages) + len(rejects), rejected=len(rejects))
    if not pages:
        raise UserError(_first_reject(rejects))
    # Before duplicates are removed: blank pictures of one size repeat one another.
    blank = [page.place for page in pages if page.is_blank]
    counts["blank_pictures"] = len(blank)
    counts["shortened_texts"] = sum(page.shortened for page in pages)
    split_by = split.split_key(pages, options.split_by)
    if not options.keep_duplicates:
        pages = _without_duplicates(pages, spool, rejects, counts)
    keys = plan.unique_keys(pages)
    shards = _plan_shards(pages, keys, split_by, options)
    written = _write_shards(folder, spool, pages, keys, shards, workers)
    counts.update(kept=len(pages), other_files=found.others.total())
    counts["skipped_nodes"] = sum(page.skipped for page in pages)
    for shard in shards:
        counts[shard.split] += len(shard.pages)
    header = {
        "schema": SCHEMA,
        "store": store,
        "png_width": None if store == "boxes" else options.png_width,
        "seed": options.seed,
        "split_by": split_by,
        "val_fraction": options.val_fraction,
        "counts": {name: counts[name] for name in COUNTS},
    }
    _write_index(folder, header, pages, shards, written)
    write_rejects(folder, sorted(rejects, key=_sort_key))
    size = sum(shard.bytes for shard in written)
    first_blank = min(blank, default=None)
    return Assembled(header["counts"], split_by, len(shards), size, found.others, first_blank)


def _default_store(found: Found) -> str:
    """Return "png" if all files are pictures; of a tar, the first sample decides."""
    firsts = [first_input(file, found.suffixes) for file in found.files]
    readable = [item for item in firsts if item is not None]
    return "png" if readable and all(map(is_picture, readable)) else "boxes"


def _read(
    inputs: Iterable[Input | Reject],
    reader: PageReader,
    count: int | None,
    workers: Workers,
    rejects: list[Reject],
) -> list[Page]:
    """Read all inputs in the workers; return the sorted pages and add to `rejects`."""
    pages: list[Page] = []

    def usable() -> Iterator[Input]:
        for item in inputs:
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                yield item

    with progress(desc="reading", unit="page", total=count) as bar:
        for results in workers.map(reader, chunks(usable())):
            bar.update(len(results))
            for result in results:
                (rejects if isinstance(result, Reject) else pages).append(result)
    return plan.sort_pages(pages)


def _first_reject(rejects: Sequence[Reject]) -> str:
    first = min(rejects, key=_sort_key)
    return f"all {len(rejects)} inputs were refused; the first: {first.place}: {first.reason}"


def _sort_key(reject: Reject) -> tuple[str, str, int, str, str]:
    return reject.file, reject.member or "", reject.line or 0, reject.id or "", reject.reason


class _Rasters(Sequence[np.ndarray]):
    """The rasters of pages, read from the spool files on access."""

    def __init__(self, pages: Sequence[Page], spools: Spools) -> None:
        self._pages = pages
        self._spools = spools

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, at: int) -> np.ndarray:
        data = self._spools.read(self._pages[at].raster, CELLS * np.uint16().itemsize)
        return np.frombuffer(data, np.uint16)


def _without_duplicates(
    pages: list[Page], spool: Path, rejects: list[Reject], counts: Counter[str]
) -> list[Page]:
    repeated = set()
    with Spools(spool) as spools:
        duplicates = find_duplicates(
            [page.template or page.source for page in pages],
            [page.picture for page in pages],
            [page.height / page.width for page in pages],
            _Rasters(pages, spools),
        )
        for duplicate in duplicates:
            page, original = pages[duplicate.page], pages[duplicate.of]
            kind = "exact duplicate" if duplicate.exact else "near-duplicate"
            reason = f"{kind} of {one_line(original.id)}"
            rejects.append(Reject(page.file, reason, page.line, page.id, page.member))
            counts["duplicates" if duplicate.exact else "near_duplicates"] += 1
            repeated.add(duplicate.page)
    return [page for at, page in enumerate(pages) if at not in repeated]


def _plan_shards(
    pages: list[Page], keys: list[str], split_by: str, options: BuildOptions
) -> list[_PlannedShard]:
    """Return the train shards, then the val shards; pages are shuffled within each split."""
    group_of = split.groups(pages, split_by, options.split_by)
    val = split.val_groups(group_of, options.val_fraction, options.seed)
    order = plan.shuffled(keys, options.seed)
    shards = []
    for name in SPLITS:
        in_split = [at for at in order if (group_of[at] in val) == (name == "val")]
        cuts = plan.cut(pages, in_split, int(options.shard_mb * (1 << 20)))
        shards += [_PlannedShard(f"{name}-{n:06d}.tar", name, part) for n, part in enumerate(cuts)]
    return shards


def _write_shards(
    folder: Path,
    spool: Path,
    pages: list[Page],
    keys: list[str],
    shards: list[_PlannedShard],
    workers: Workers,
) -> list[WrittenShard]:
    plans = (
        ShardPlan(
            folder / shard.name,
            spool,
            [Entry(keys[at], pages[at].members, pages[at].spooled) for at in shard.pages],
        )
        for shard in shards
    )
    written = workers.map(write_shard, plans)
    return list(progress(written, total=len(shards), desc="writing", unit="shard"))


def _write_index(
    folder: Path,
    header: dict,
    pages: list[Page],
    shards: list[_PlannedShard],
    written: list[WrittenShard],
) -> None:
    labels = sorted({page.label for page in pages})
    templates = sorted({page.template for page in pages})
    limit = np.iinfo(RECORD["label"]).max
    if len(labels) > limit:
        raise UserError(f"{len(labels)} different labels; an index holds at most {limit}")
    label_at = {label: at for at, label in enumerate(labels)}
    template_at = {template: at for at, template in enumerate(templates)}
    rows = []
    for shard, done in zip(shards, written, strict=True):
        for at, offset, blocks in zip(shard.pages, done.offsets, done.blocks, strict=True):
            page = pages[at]
            size = (page.width, page.height, page.boxes)
            names = (label_at[page.label], template_at[page.template])
            rows.append((offset, blocks, *size, *names))
    entries = [
        {
            "name": shard.name,
            "split": shard.split,
            "samples": len(shard.pages),
            "bytes": done.bytes,
            "sha256": done.sha256,
        }
        for shard, done in zip(shards, written, strict=True)
    ]
    header = {
        **header,
        "samples": len(rows),
        "shards": entries,
        "labels": labels,
        "templates": templates,
    }
    write_index(folder, header, np.array(rows, RECORD))
