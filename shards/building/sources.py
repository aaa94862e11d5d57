"""Inputs of a build: files, folders of files, JSON lines and generated pages.

Files are found in sorted order and read in bounded pieces. They are untrusted: an input that cannot
be used becomes a `Reject` that names it.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.errors import UserError
from shards.format.layout import MAX_BYTES
from shards.source_formats import Generator, suffixes_of

_MAX_SKIPPED = 1 << 28  # bytes of an overlong line; the rest of its file is not read beyond them
_CHUNK_INPUTS = 64
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Reject:
    """A refused input: its file, line (counted from 1), id if known, and the reason."""

    file: str
    reason: str
    line: int | None = None
    id: str | None = None


@dataclass(frozen=True)
class Input:
    """One layout or picture to be read.

    file, line: its place, for messages.
    name: id of the page if its record has none.
    folder: name of the folder that the file lies in, inside SOURCE; None at the top.
    line_bytes: a line of JSON; None if the whole file is the input.
    number: page number of a generator; None for files.
    """

    file: str
    name: str
    line: int | None = None
    folder: str | None = None
    line_bytes: bytes | None = None
    number: int | None = None


@dataclass(frozen=True)
class FoundFile:
    """A file to read: its path, and its name without suffix relative to SOURCE."""

    path: Path
    name: str

    @property
    def is_lines(self) -> bool:
        """True for JSON lines, which hold many layouts."""
        return self.path.name.lower().endswith((".jsonl", ".jsonl.gz"))


@dataclass
class Found:
    """The contents of the sources: files to read, refused ones, and the number of other files."""

    files: list[FoundFile]
    rejects: list[Reject]
    others: int


def find_files(sources: Iterable[Path], choice: str) -> Found:
    """Find the files that a value of `--format` reads, in sorted order, without hidden files.

    Raises `UserError` if a source does not exist or is a file of another kind.
    """
    suffixes = suffixes_of(choice)
    found = Found([], [], 0)
    for source in sources:
        if source.is_dir():
            _walk_folder(source, suffixes, found)
        elif not source.exists():
            raise UserError(f"{source}: no such file or folder")
        elif _suffix(source.name, suffixes) is None:
            raise UserError(f"{source}: --format {choice} reads {', '.join(suffixes)}")
        else:
            _add_file(source, source.name, suffixes, found)
    return found


def _walk_folder(source: Path, suffixes: tuple[str, ...], found: Found) -> None:
    def refuse(error: OSError) -> None:
        found.rejects.append(Reject(str(error.filename), _os_reason(error)))

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
                _add_file(path, path.relative_to(source).as_posix(), suffixes, found)


def _add_file(path: Path, relative: str, suffixes: tuple[str, ...], found: Found) -> None:
    suffix = _suffix(path.name, suffixes)
    if suffix is None:
        found.others += 1
        return
    try:
        # Opening a pipe blocks until it has a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            found.rejects.append(Reject(str(path), "not a regular file"))
            return
    except OSError as error:
        found.rejects.append(Reject(str(path), _os_reason(error)))
        return
    found.files.append(FoundFile(path, relative[: -len(suffix)]))


def _suffix(name: str, suffixes: tuple[str, ...]) -> str | None:
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix)), None)


def read_inputs(found: Found) -> Iterator[Input | Reject]:
    """Yield the inputs of all files; JSON lines with their bytes, other files without."""
    for file in found.files:
        if file.is_lines:
            yield from _read_lines(file)
        else:
            folder = Path(file.name).parent.name or None
            yield Input(str(file.path), file.name, folder=folder)


def generated_inputs(generator: Generator, count: int | None) -> Iterator[Input]:
    """Yield pages 0 to `count` - 1 of a generator; None: its default count."""
    name = generator.name
    for number in range(count or generator.default_count):
        yield Input(name, f"{name}-{number}", line=number + 1, number=number)


def _read_lines(file: FoundFile) -> Iterator[Input | Reject]:
    name = str(file.path)
    number = layouts = 0
    try:
        with (
            gzip.open(file.path) if name.lower().endswith(".gz") else file.path.open("rb") as stream
        ):
            while line := stream.readline(MAX_BYTES + 1):
                number += 1
                if len(line) > MAX_BYTES:
                    yield Reject(name, f"longer than {MAX_BYTES} bytes", number)
                    layouts += 1
                    if not line.endswith(b"\n") and not _skip_line(stream):
                        yield Reject(name, "endless line; the rest of the file is not read", number)
                        return
                elif line.strip():
                    layouts += 1
                    yield Input(name, f"{file.name}-{number}", line=number, line_bytes=line)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield Reject(name, "damaged gzip, truncated or changed", number + 1)
        return
    except OSError as error:
        yield Reject(name, _os_reason(error), number + 1)
        return
    if layouts == 0:
        yield Reject(name, "empty: holds no layout")


def _skip_line(stream: BinaryIO) -> bool:
    """Read on to the end of the line; return False if it is longer than `_MAX_SKIPPED`."""
    skipped = 0
    while piece := stream.readline(_CHUNK_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            return True
        if skipped > _MAX_SKIPPED:
            return False
    return True


def read_whole(path: Path) -> bytes:
    """Return a file's bytes, at most `MAX_BYTES` + 1 of them; raise `OSError`."""
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def chunks(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    """Yield the inputs in lists that are large enough to be sent to a worker process."""
    chunk: list[Input] = []
    size = 0
    for item in inputs:
        chunk.append(item)
        size += len(item.line_bytes or b"")
        if len(chunk) == _CHUNK_INPUTS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _os_reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
