"""JSON lines: one input for each line, in UTF-8 whatever the encoding of the file."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.building.inputs import Input, Reject, os_reason
from shards.building.streams import open_source
from shards.format.layout import MAX_BYTES, BadLayout
from shards.format.text import UTF_8, encoding_of

_MAX_SKIPPED = 1 << 28  # bytes of an overlong line; the rest of its file is not read beyond them
_CHUNK_BYTES = 1 << 20
_MARK_DAMAGE = "shards.mark-damage"
_DAMAGE = "\udcff"  # cannot be encoded in UTF-8, so that only its line is refused

codecs.register_error(_MARK_DAMAGE, lambda error: (_DAMAGE, error.end))


def read_lines(path: Path, name: str) -> Iterator[Input | Reject]:
    """Yield the lines of a file that are not empty, each with the id `name`-number."""
    number = 0
    try:
        with open_source(path) as stream:
            for item in lines_of(stream, Input(str(path), name)):
                number = item.line or 0
                yield item
    except BadLayout as error:
        yield Reject(str(path), str(error), number + 1)
    except OSError as error:
        yield Reject(str(path), os_reason(error), number + 1)


def lines_of(stream: BinaryIO, place: Input) -> Iterator[Input | Reject]:
    """Yield the lines of a stream that has `peek`; `place` is the file, or the member of a tar."""
    file, member = place.file, place.member
    number = layouts = 0
    codec, mark = encoding_of(stream.peek(4)[:4])
    stream.read(len(mark))
    lines = stream if codec == UTF_8 else _Decoded(stream, codec)
    while line := lines.readline(MAX_BYTES + 1):
        number += 1
        if len(line) > MAX_BYTES:
            yield Reject(file, f"longer than {MAX_BYTES} bytes", number, member=member)
            layouts += 1
            if not line.endswith(b"\n") and not _skip_line(lines):
                reason = "endless line; the rest of the file is not read"
                yield Reject(file, reason, number, member=member)
                return
        elif line.strip():
            layouts += 1
            if codec != UTF_8 and _DAMAGE.encode(UTF_8, "surrogatepass") in line:
                yield Reject(file, f"not {codec.upper()} text", number, member=member)
            else:
                yield Input(file, f"{place.name}-{number}", line=number, data=line, member=member)
    if layouts == 0:
        yield Reject(file, "empty: holds no layout", member=member)


class _Decoded:
    """Lines of a stream of UTF-16 or UTF-32, in UTF-8."""

    def __init__(self, stream: BinaryIO, codec: str) -> None:
        self._text = io.TextIOWrapper(stream, codec, errors=_MARK_DAMAGE, newline="\n")

    def readline(self, limit: int) -> bytes:
        """Return the next line, or its first `limit` characters; b"" at the end."""
        return self._text.readline(limit).encode(UTF_8, "surrogatepass")


def _skip_line(lines: BinaryIO | _Decoded) -> bool:
    """Read on to the end of the line; return False if it is longer than `_MAX_SKIPPED`."""
    skipped = 0
    while piece := lines.readline(_CHUNK_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            return True
        if skipped > _MAX_SKIPPED:
            return False
    return True
