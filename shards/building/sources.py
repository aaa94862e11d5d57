"""Where layouts come from: files, folders of them, JSON lines, pictures, or the page generator.

Files are found in sorted order, read in bounded pieces and never trusted: whatever cannot be used
becomes a `Reject` that names it.
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

FORMATS = ("auto", "layout", "rico", "png", "synthetic")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
PNG_SUFFIXES = (".png",)

_GIVE_UP = 1 << 28  # bytes of one line, after which the rest of a (compressed) file is left
_CHUNK_INPUTS = 64
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Reject:
    """An input that was refused: its file, line (counted from 1), id where known, and why."""

    file: str
    reason: str
    line: int | None = None
    id: str | None = None


@dataclass(frozen=True)
class Input:
    """One layout or picture to be read.

    file, line: where it is, for messages.
    name: its id if it gives none itself.
    folder: name of the folder it lies in, inside SOURCE; None at the top.
    line_bytes: a line of JSON; None if the whole file is the input.
    number: which page of the generator; None for files.
    """

    file: str
    name: str
    line: int | None = None
    folder: str | None = None
    line_bytes: bytes | None = None
    number: int | None = None

    @property
    def is_png(self) -> bool:
        return self.file.lower().endswith(PNG_SUFFIXES)


@dataclass(frozen=True)
class FoundFile:
    """A file to read: its path, and its name without suffix relative to SOURCE."""

    path: Path
    name: str

    @property
    def is_lines(self) -> bool:
        return self.path.name.lower().endswith((".jsonl", ".jsonl.gz"))

    @property
    def is_png(self) -> bool:
        return self.path.name.lower().endswith(PNG_SUFFIXES)


@dataclass
class Found:
    """What lies under the sources: files to read, refused ones, and how many of other kinds."""

    files: list[FoundFile]
    rejects: list[Reject]
    others: int


def find_files(sources: Iterable[Path], form: str) -> Found:
    """Find the files of the format `form` (of `FORMATS`) in sorted order; hidden ones are left out.

    Raises `UserError` for a source that is absent, or a file of another kind.
    """
    suffixes = {"png": PNG_SUFFIXES, "auto": JSON_SUFFIXES + PNG_SUFFIXES}.get(form, JSON_SUFFIXES)
    found = Found([], [], 0)
    for source in sources:
        if source.is_dir():
            _walk_folder(source, suffixes, found)
        elif not source.exists():
            raise UserError(f"{source}: no such file or folder")
        elif _suffix(source.name, suffixes) is None:
            raise UserError(f"{source}: --format {form} reads {', '.join(suffixes)}")
        else:
            _add_file(source, source.name, suffixes, found)
    return found


def _walk_folder(source: Path, suffixes: tuple[str, ...], found: Found) -> None:
    def refuse(error: OSError) -> None:
        found.rejects.append(Reject(str(error.filename), _os_reason(error)))

    visited = set()  # a link to a folder above would otherwise be followed for ever
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
        # Opening a pipe would wait for ever.
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
    """All inputs of the files, one at a time; of a single-input file only where it is."""
    for file in found.files:
        if file.is_lines:
            yield from _read_lines(file)
        else:
            folder = Path(file.name).parent.name or None
            yield Input(str(file.path), file.name, folder=folder)


def generated_inputs(count: int) -> Iterator[Input]:
    """Pages number 0 to `count` - 1 of the generator."""
    for number in range(count):
        yield Input("synthetic", f"synthetic-{number}", line=number + 1, number=number)


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
                        yield Reject(name, "the rest was not read: one endless line", number)
                        return
                elif line.strip():
                    layouts += 1
                    yield Input(name, f"{file.name}-{number}", line=number, line_bytes=line)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield Reject(name, "damaged gzip, cut off or changed", number + 1)
        return
    except OSError as error:
        yield Reject(name, _os_reason(error), number + 1)
        return
    if layouts == 0:
        yield Reject(name, "empty: holds no layout")


def _skip_line(stream: BinaryIO) -> bool:
    """Read on to the end of the line; whether it came within bounds."""
    skipped = 0
    while piece := stream.readline(_CHUNK_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            return True
        if skipped > _GIVE_UP:
            return False
    return True


def read_whole(path: Path) -> bytes:
    """A file's bytes; at most one more than `MAX_BYTES`. Raises `OSError`."""
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def chunks(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    """Cut the inputs into pieces of work that are worth sending to another process."""
    chunk: list[Input] = []
    held = 0
    for item in inputs:
        chunk.append(item)
        held += len(item.line_bytes or b"")
        if len(chunk) == _CHUNK_INPUTS or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _os_reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
