"""Inputs of a build: files, folders of files, JSON lines, members of tars and generated pages.

Files are found in sorted order and read in bounded pieces. They are untrusted: an input that cannot
be used becomes a `Reject` that names it.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shards.building.inputs import Input, Reject, describe_suffixes, os_reason
from shards.building.lines import read_lines
from shards.building.streams import open_source
from shards.building.tar_samples import read_samples
from shards.errors import UserError
from shards.format.json_text import CAPTURE
from shards.format.layout import BadLayout
from shards.source_formats import (
    ARCHIVE_SUFFIXES,
    LINES_SUFFIXES,
    Generator,
    file_format_of,
    suffixes_of,
)

_CHUNK_INPUTS = 64
_CHUNK_BYTES = 1 << 20
_HTML_SUFFIXES = (".html", ".htm", ".xhtml", ".mhtml", ".mht")
_ADDRESS = re.compile(r"https?:/", re.IGNORECASE)  # `Path` leaves a single slash
_JSON_STARTS = (b"{", b"[")


@dataclass(frozen=True)
class FoundFile:
    """A file to read: its path, and its name without suffix relative to SOURCE."""

    path: Path
    name: str

    @property
    def is_lines(self) -> bool:
        """True for JSON lines, which hold many layouts."""
        return self.path.name.lower().endswith(LINES_SUFFIXES)

    @property
    def is_archive(self) -> bool:
        """True for a tar, whose members are read."""
        return self.path.name.lower().endswith(ARCHIVE_SUFFIXES)


@dataclass
class Found:
    """The contents of the sources.

    files: files to read.
    suffixes: suffixes that are read, also of the members of tars.
    rejects: refused files.
    others: numbers of other files by suffix; those in tars are counted while they are read.
    """

    files: list[FoundFile]
    suffixes: tuple[str, ...] = ()
    rejects: list[Reject] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def find_files(sources: Iterable[Path], choice: str) -> Found:
    """Find the files that a value of `--format` reads, in sorted order, without hidden files.

    Raises `UserError` if a source does not exist or is a file of another kind.
    """
    suffixes = suffixes_of(choice)
    found = Found([], suffixes)
    for source in sources:
        if _ADDRESS.match(str(source)) or source.name.lower().endswith(_HTML_SUFFIXES):
            address = re.sub(r"^(https?:)/+", r"\1//", str(source), flags=re.IGNORECASE)
            command = CAPTURE.format(source=address)
            raise UserError(f"{address}: a web page, not a layout; run: {command}")
        if source.is_dir():
            _walk_folder(source, found)
        elif not source.exists():
            raise UserError(f"{source}: no such file or folder")
        elif _suffix(source.name, _all(suffixes)) is None and not _is_readable(source, suffixes):
            raise UserError(f"{source}: --format {choice} reads {', '.join(_all(suffixes))}")
        else:
            _add_file(source, source.name, found, is_named=True)
    return found


def _is_readable(source: Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether the first bytes of a file with an unknown suffix are of a format to read."""
    try:
        with open_source(source) as stream:
            head = stream.read(512)
    except (OSError, BadLayout):
        return False
    form = file_format_of("", head)
    if form is not None:
        return bool(set(form.suffixes) & set(suffixes))
    return ".json" in suffixes and head.lstrip().startswith(_JSON_STARTS)


def describe_nothing(sources: Iterable[Path], found: Found) -> str:
    """Return the message for sources without any file to read: which files they hold instead."""
    names = ", ".join(map(str, sources))
    message = f"{names}: no layouts found"
    if found.others:
        message += f" among {describe_suffixes(found.others)}"
    message += f"; read are {', '.join(_all(found.suffixes))}"
    if any(suffix in found.others for suffix in _HTML_SUFFIXES):
        message += f"; for web pages run: {CAPTURE.format(source=names)}"
    return message


def _all(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return suffixes + ARCHIVE_SUFFIXES


def _walk_folder(source: Path, found: Found) -> None:
    def refuse(error: OSError) -> None:
        found.rejects.append(Reject(str(error.filename), os_reason(error)))

    visited = set()  # a link to a folder above it would make the walk endless
    for folder, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                path = Path(folder, name)
                _add_file(path, path.relative_to(source).as_posix(), found)


def _add_file(path: Path, relative: str, found: Found, *, is_named: bool = False) -> None:
    suffix = _suffix(path.name, _all(found.suffixes))
    if suffix is None and not is_named:
        found.others[path.suffix.lower()] += 1
        return
    try:
        # Opening a pipe blocks until it has a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            found.rejects.append(Reject(str(path), "not a regular file"))
            return
    except OSError as error:
        found.rejects.append(Reject(str(path), os_reason(error)))
        return
    found.files.append(FoundFile(path, relative[: len(relative) - len(suffix or "")]))


def _suffix(name: str, suffixes: tuple[str, ...]) -> str | None:
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix)), None)


def read_inputs(found: Found) -> Iterator[Input | Reject]:
    """Yield the inputs of all files; lines and members of tars with their bytes, others without."""
    for file in found.files:
        if file.is_archive:
            yield from read_samples(file.path, file.name, found.suffixes, found.others)
        elif file.is_lines:
            yield from read_lines(file.path, file.name)
        else:
            folder = Path(file.name).parent.name or None
            yield Input(str(file.path), file.name, folder=folder)


def first_input(file: FoundFile, suffixes: tuple[str, ...]) -> Input | None:
    """Return the first input of a tar, or another file as a whole; None if there is none."""
    if not file.is_archive:
        return Input(str(file.path), file.name)
    first = next(read_samples(file.path, file.name, suffixes, Counter()), None)
    return first if isinstance(first, Input) else None


def generated_inputs(generator: Generator, count: int | None) -> Iterator[Input]:
    """Yield pages 0 to `count` - 1 of a generator; None: its default count."""
    name = generator.name
    for number in range(count or generator.default_count):
        yield Input(name, f"{name}-{number}", line=number + 1, number=number)


def chunks(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    """Yield the inputs in lists that are large enough to be sent to a worker process."""
    chunk: list[Input] = []
    size = 0
    for item in inputs:
        chunk.append(item)
        size += len(item.data or b"") + len(item.facts or b"")
        if len(chunk) == _CHUNK_INPUTS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
