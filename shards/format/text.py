"""Encoding of a source file's text, decided once per file.

A byte-order mark decides. Without one, zero bytes among the first four decide as in RFC 4627
(section 3), because JSON and XML begin with an ASCII character; all else is UTF-8.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

from shards.format.layout import BadLayout

UTF_8 = "utf-8"
_MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    # The marks of UTF-32 come before those of UTF-16: the little-endian one begins with it.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# By which of the first four bytes are not zero.
_PATTERNS = {
    (False, False, False, True): "utf-32-be",
    (True, False, False, False): "utf-32-le",
    (False, True, False, True): "utf-16-be",
    (True, False, True, False): "utf-16-le",
}


class Encoding(NamedTuple):
    """Encoding of a text: Python's name of the codec, and the bytes of the byte-order mark."""

    codec: str
    mark: bytes


def encoding_of(head: bytes) -> Encoding:
    """Return the encoding of a text by its first bytes; four are enough."""
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return Encoding(codec, mark)
    pattern = tuple(byte != 0 for byte in head[:4])
    return Encoding(_PATTERNS.get(pattern, UTF_8), b"")


def decode_text(data: bytes, codec: str | None = None) -> str:
    """Decode a whole text without its byte-order mark; raise `BadLayout` if it is damaged.

    codec: of `encoding_of` for the file that the data is a part of; None: the data is a file.
    """
    mark = b""
    if codec is None:
        codec, mark = encoding_of(data)
    try:
        return data[len(mark) :].decode(codec)
    except UnicodeDecodeError:
        raise BadLayout(f"not {codec.upper()} text") from None
