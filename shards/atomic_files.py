"""Atomic writes of files and folders, and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.errors import UserError


class CannotWrite(UserError):
    """A full or read-only disk; the message is one plain line that names the file."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError of the enclosed writes to CannotWrite, which names `path`."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{path}: cannot be written ({error.strerror or error})") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically, replacing an existing one; text is written as UTF-8."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_stream(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to; at the end sync it to disk and rename it to `path`.

    After an exception the file is removed, and an existing `path` is kept. Raises CannotWrite if
    the file cannot be opened, or completed at the end.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            stream = draft.open("wb")
        with stream:
            yield stream
            with writing(path):
                stream.flush()
                os.fsync(stream.fileno())
                draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill; at the end sync it to disk and rename it to `path`.

    An existing `path` is replaced. Raises CannotWrite if a write fails. After this or any other
    exception an existing `path` is kept, and the new folder is removed.
    """
    draft = path.with_name(f".{path.name}.tmp")
    with writing(path):
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            yield draft
            publish_folder(draft, path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)  # it may fill the disk
            raise


def publish_folder(draft: Path, path: Path) -> None:
    """Sync a folder to disk and rename it to `path`, which is replaced."""
    for file in draft.iterdir():
        sync_path(file)
    sync_path(draft)
    if path.exists():
        remove_folder(path)
    draft.rename(path)
    sync_path(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder atomically: it is renamed first, so a crash leaves all of it or none."""
    removed = path.with_name(f".{path.name}.old.tmp")
    path.rename(removed)
    shutil.rmtree(removed)


def sync_path(path: Path) -> None:
    """Sync a file to disk, or the entries of a folder (not the contents of its files)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path | BinaryIO) -> str:
    """Return the SHA-256, in hexadecimal, of a file or of the rest of an open one."""
    digest = hashlib.sha256()
    with file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
