"""All samples of a build between reading and writing: facts in memory, contents on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from shards.dedupe import find_duplicates
from shards.samples import Sample
from shards.sources import Reject
from shards.split import stable_order, validation_groups
from shards.writer import Row, unique_keys

if TYPE_CHECKING:
    from shards.build import BuildOptions


@dataclass(frozen=True)
class Entry:
    """A sample whose contents wait in the spool: by extension, where they start and how long."""

    file: str
    line: int | None
    id: str
    row: Row
    groups: dict[str, str]
    digest: bytes
    contents: dict[str, tuple[int, int]]


class Collection:
    """The samples of a build.

    Attributes:
        entries: the samples that are kept, in the order of the inputs.
        rejects: what was left out, and why.
    """

    def __init__(self, spool: BinaryIO, rejects: list[Reject]) -> None:
        self.spool = spool
        self.entries: list[Entry] = []
        self.signatures: list[np.ndarray] = []
        self.rejects = list(rejects)
        self.duplicates = {True: 0, False: 0}

    @property
    def refused(self) -> int:
        """How many inputs could not be used."""
        return len(self.rejects) - sum(self.duplicates.values())

    def add(self, sample: Sample | Reject) -> None:
        """Take in what came of one input."""
        if isinstance(sample, Reject):
            self.rejects.append(sample)
            return
        contents = {}
        for extension, content in sample.members.items():
            contents[extension] = (self.spool.tell(), len(content))
            self.spool.write(content)
        meta = sample.meta
        template = meta.get("template", "")
        row = Row(sample.width, sample.height, sample.count, meta["label"], template)
        groups = {key: str(value) for key, value in meta.items()}
        entry = Entry(sample.file, sample.line, sample.id, row, groups, sample.digest, contents)
        self.entries.append(entry)
        self.signatures.append(sample.signature)

    def drop_duplicates(self) -> None:
        """Leave out the pages that repeat an earlier page of their template."""
        found = list(
            find_duplicates(
                [entry.row.template for entry in self.entries],
                [entry.digest for entry in self.entries],
                [entry.row.height / entry.row.width for entry in self.entries],
                self.signatures,
            )
        )
        for duplicate in found:
            page, of = self.entries[duplicate.page], self.entries[duplicate.of]
            kind = "duplicate" if duplicate.exact else "near-duplicate"
            self.rejects.append(Reject(page.file, f"{kind} of {of.id}", page.line, page.id))
            self.duplicates[duplicate.exact] += 1
        dropped = {duplicate.page for duplicate in found}
        self.entries = [e for number, e in enumerate(self.entries) if number not in dropped]

    def counts(self) -> dict[str, int]:
        """How many inputs were read, kept, rejected or found to be duplicates."""
        return {
            "read": len(self.entries) + len(self.rejects),
            "kept": len(self.entries),
            "rejected": self.refused,
            "exact_duplicates": self.duplicates[True],
            "near_duplicates": self.duplicates[False],
        }

    def split(self, options: BuildOptions) -> dict[str, list[int]]:
        """The entries of `train` and `val`, each shuffled, so that no template fills a window."""
        self.keys = unique_keys(entry.id for entry in self.entries)
        groups = [
            _group(entry, key, options.split_by)
            for entry, key in zip(self.entries, self.keys, strict=True)
        ]
        val = validation_groups(groups, options.val_fraction, options.seed)
        shuffled = stable_order(self.keys, options.seed, "shuffle")
        return {
            "train": [number for number in shuffled if groups[number] not in val],
            "val": [number for number in shuffled if groups[number] in val],
        }

    def read(self, numbers: list[int]) -> Iterator[tuple[str, Row, dict[str, bytes]]]:
        """Key, row and contents of these entries."""
        for number in numbers:
            entry = self.entries[number]
            contents = {}
            for extension, (start, length) in entry.contents.items():
                self.spool.seek(start)
                contents[extension] = self.spool.read(length)
            yield self.keys[number], entry.row, contents


def _group(entry: Entry, key: str, split_by: str | None) -> str:
    """What a sample shares with those that must be on its side."""
    for name in (split_by,) if split_by else ("template", "source"):
        if name in entry.groups:
            return f"{name}:{entry.groups[name]}"
    return f"sample:{key}"
