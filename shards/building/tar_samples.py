"""Samples in tars of other tools: pictures with JSON, layouts, and the boxes of shards.

Members that follow one another and have the same name up to its first dot are one sample, as in
WebDataset. A JSON layout is the page of its sample; other JSON beside a picture holds its id, label
and other texts, as img2dataset and WebDataset's writer make them. Tars are read as streams: nothing
is unpacked to disk, and links and devices are ignored.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from shards.building.inputs import Input, Reject, describe_suffixes, os_reason
from shards.building.lines import lines_of
from shards.building.streams import DAMAGED_GZIP, open_source
from shards.format.layout import MAX_BYTES, BadLayout
from shards.format.tar import BOXES
from shards.source_formats import LINES_SUFFIXES

_MAX_SAMPLE_FILES = 64
_MAX_READ = MAX_BYTES + (1 << 20)  # bytes
_MAX_EMPTY_READS = 16
_SAMPLE = re.compile(r"(.*/)?[^/.]+")
_JSON = (".json", ".json.gz")
_LABEL = ".cls"  # WebDataset's suffix of the class of a sample
_BOXES = f".{BOXES}"
_BESIDE = (*_JSON, _BOXES, _LABEL)  # suffixes that are read beside those of pages
_MAX_REST = 1 << 20  # bytes checked behind the end; tars are padded to 10 KiB
_TRUNCATED = "truncated or damaged tar; only the members before are read"


@dataclass(frozen=True)
class _Member:
    """A file of a sample: its name in the tar, its suffix in lower case, and its content."""

    name: str
    suffix: str
    content: bytes

    @property
    def stem(self) -> str:
        """The name without the suffix."""
        return self.name[: -len(self.suffix)]


def read_samples(
    path: Path, name: str, suffixes: tuple[str, ...], others: Counter[str]
) -> Iterator[Input | Reject]:
    """Yield the inputs in a tar, which may be compressed with gzip.

    Args:
        name: name of the tar without suffix, for the ids of samples in its top folder.
        suffixes: suffixes of the members to read.
        others: the numbers of other members by suffix are added to it.
    """
    file, read, ignored = str(path), 0, Counter()
    try:
        with open_source(path) as stream:
            forward = _ForwardStream(stream)
            with tarfile.open(fileobj=forward, mode="r:", encoding="utf-8") as tar:
                for item in _inputs(tar, Input(file, name), suffixes, ignored):
                    read += 1
                    yield item
            # tarfile also stops, without an error, at a damaged header and at the end of the file.
            if forward.last != bytes(tarfile.BLOCKSIZE):
                yield Reject(file, _TRUNCATED)
            elif forward.read(_MAX_REST).strip(b"\0"):
                yield Reject(file, "data behind the end of the tar is not read")
            elif read == 0:
                among = f" among {describe_suffixes(ignored)}" if ignored else ""
                yield Reject(file, f"holds no layout or picture{among}")
    except BadLayout as error:
        yield Reject(file, str(error))
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError, RecursionError):
        yield Reject(file, _TRUNCATED)
    except OSError as error:
        yield Reject(file, os_reason(error))
    finally:
        others.update(ignored)


class _ForwardStream:
    """Stream for tarfile that is only read forwards, in pieces of limited size.

    tarfile reads an extended header in one piece, whatever size it states. In a compressed file,
    a seek backwards would decompress everything before once more.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = self._empty_reads = 0
        self.last = b""  # the piece read last

    def tell(self) -> int:
        """Return the offset in bytes."""
        return self._offset

    def seek(self, offset: int) -> None:
        """Go to an offset that is not before the present one."""
        if offset < self._offset:
            raise BadLayout(_TRUNCATED)
        if offset > self._offset:
            self._stream.seek(offset)
        self._offset = offset

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; raise `BadLayout` over the limit."""
        if size > _MAX_READ:
            raise BadLayout(_TRUNCATED)
        self.last = self._stream.read(size)
        self._offset += len(self.last)
        # tarfile may read on for ever at the end of a damaged tar.
        self._empty_reads = 0 if self.last else self._empty_reads + 1
        if self._empty_reads > _MAX_EMPTY_READS:
            raise BadLayout(_TRUNCATED)
        return self.last


def _inputs(
    tar: tarfile.TarFile, place: Input, suffixes: tuple[str, ...], others: Counter[str]
) -> Iterator[Input | Reject]:
    """Yield the inputs of an opened tar."""
    sample: list[_Member] = []
    for info in _members(tar):
        name = info.name
        suffix = next((s for s in (*suffixes, *_BESIDE) if name.lower().endswith(s)), None)
        is_part = suffix is not None and suffix not in LINES_SUFFIXES
        is_same = bool(sample) and is_part and _key(name) == _key(sample[0].name)
        if not is_same or len(sample) >= _MAX_SAMPLE_FILES:
            yield from _sample_inputs(sample, place, suffixes)
            sample = []
        if is_part:
            content = tar.extractfile(info).read(MAX_BYTES + 1)
            sample.append(_Member(name, suffix, content))
        elif suffix is None:
            others[PurePosixPath(name).suffix.lower()] += 1
        else:
            member = replace(place, name=name[: -len(suffix)], member=name)
            yield from _lines(tar.extractfile(info), member, suffix)
    yield from _sample_inputs(sample, place, suffixes)


def _lines(stream: BinaryIO, place: Input, suffix: str) -> Iterator[Input | Reject]:
    """Yield the lines of a member."""
    try:
        if suffix.endswith(".gz"):
            with gzip.open(stream) as unzipped:
                yield from lines_of(unzipped, place)
        else:
            yield from lines_of(stream, place)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield place.reject(DAMAGED_GZIP)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files that are not hidden."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # tarfile keeps all of them
        parts = PurePosixPath(info.name).parts
        is_hidden = any(part.startswith((".", "__MACOSX")) and part != "." for part in parts)
        if info.isreg() and parts and not is_hidden:
            yield info


def _key(name: str) -> str:
    """Return the name up to the first dot behind the folders."""
    match = _SAMPLE.match(name)
    return name if match is None else match[0]


def _sample_inputs(
    sample: list[_Member], place: Input, suffixes: tuple[str, ...]
) -> Iterator[Input]:
    """Yield the inputs of one sample: its boxes, pictures and other files, or else its JSON."""
    texts = [member for member in sample if member.suffix in _JSON]
    labels = [member for member in sample if member.suffix == _LABEL]
    pages = [m for m in sample if m not in texts and m not in labels]
    boxes = [member for member in pages if member.suffix == _BOXES]
    facts_of = {member.stem: member for member in texts}
    label = labels[0].content.decode("utf-8", "replace").strip() if labels else None
    used: set[str] = set()
    for member in boxes or pages:
        facts = facts_of.get(member.stem, texts[0] if len(texts) == 1 else None)
        if facts is not None:
            used.add(facts.name)
        yield _input(member, place, facts, label)
    for member in texts:
        if member.name not in used and member.suffix in suffixes:
            yield _input(member, place, None, label)


def _input(member: _Member, place: Input, facts: _Member | None, label: str | None) -> Input:
    folder = PurePosixPath(member.name).parent.name or None
    return replace(
        place,
        name=member.stem,
        folder=folder,
        member=member.name,
        data=member.content,
        facts=None if facts is None else facts.content,
        label=label or None,
    )
