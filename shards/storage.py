"""Files that appear on disk whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    pass
import os
import shutil
from collections.abc import Iterator

from shards.errors import UserError


class CannotWrite(UserError):
    """A full disk, or one that is not for writing; the message is one plain line."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes `path`; raises CannotWrite, naming it, where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{path}: cannot be written ({error.strerror or error})") from error


def write_atomic(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in place of one that is there."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` in the end, on disk and whole.

    Raises CannotWrite where the disk refuses; what was in `path` is still there then.
    """
    draft = path.with_name(f".{path.name}.tmp")
    with writing(path):
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            yield draft
            for file in draft.iterdir():
                sync_path(file)
            sync_path(draft)
            if path.exists():
                remove_folder(path)
            draft.rename(path)
            sync_path(path.parent)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # it may be what fills the disk
            raise


def remove_folder(path: Path) -> None:
    """Remove a folder whole: a crash leaves all of it, or what its name says is rubbish."""
    rubbish = path.with_name(f".{path.name}.old.tmp")
    path.rename(rubbish)
    shutil.rmtree(rubbish)


def sync_path(path: Path) -> None:
    """Have the disk hold a file, or a folder's own entries, the names of what is in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path | BinaryIO) -> str:
    """The SHA-256 of a file, or of what is left to read of an open one, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
