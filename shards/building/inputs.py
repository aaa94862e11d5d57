"""Inputs of a build, and inputs that were refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_SHOWN_SUFFIXES = 8


class Place:
    """Base of what has a place in the sources: `file`, and `line` or `member` of it, or None."""

    @property
    def place(self) -> str:
        """The place for messages."""
        line = "" if self.line is None else f", line {self.line}"
        member = "" if self.member is None else f", member {self.member}"
        return f"{self.file}{member}{line}"


@dataclass(frozen=True)
class Reject(Place):
    """A refused input: its file, line (counted from 1), id if known, and the reason.

    member: name in the tar that `file` is.
    """

    file: str
    reason: str
    line: int | None = None
    id: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class Input(Place):
    """One file, line or sample of a tar to be read; most hold a single page.

    file, line, member: its place, for messages; `member` is a name in the tar that `file` is.
    name: id of the page if its record has none.
    folder: name of the folder that the file lies in, inside SOURCE; None at the top.
    data: a line of JSON in UTF-8, or the content of a member; None: the input is the whole file.
    facts: JSON that lies beside a picture, or beside the boxes of a shard, in a tar.
    label: label of a sample in a tar that is not in its JSON.
    number: page number of a generator; None for files.
    """

    file: str
    name: str
    line: int | None = None
    folder: str | None = None
    data: bytes | None = None
    number: int | None = None
    member: str | None = None
    facts: bytes | None = None
    label: str | None = None

    @property
    def format_name(self) -> str:
        """Name of the file or member, whose suffix tells its format."""
        return self.member or self.file

    def reject(self, reason: str, page_id: str | None = None) -> Reject:
        """Return this input as a refused one."""
        return Reject(self.file, reason, self.line, page_id, self.member)


def os_reason(error: OSError) -> str:
    """Return the reason of a failed operation on a file."""
    return f"cannot be read: {error.strerror or error}"


def describe_suffixes(counts: Counter[str]) -> str:
    """Return the numbers of files by suffix, for a message."""
    shown = counts.most_common(_SHOWN_SUFFIXES)
    parts = [f"{count} {suffix or 'without suffix'}" for suffix, count in shown]
    rest = counts.total() - sum(count for _, count in shown)
    files = "file" if counts.total() == 1 else "files"
    return f"{counts.total()} {files} ({', '.join(parts)}{f', {rest} more' if rest else ''})"
