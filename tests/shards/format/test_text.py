"""The encoding of a file is decided once: by its byte-order mark, else by its first characters."""

import codecs

import pytest

from shards.format.layout import BadLayout
from shards.format.text import decode_text, encoding_of

MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
TEXT = '{"id": "登录"}'


@pytest.mark.parametrize("codec", MARKS)
def test_every_encoding_is_decoded_with_and_without_a_mark(codec):
    data = TEXT.encode(codec)
    assert decode_text(MARKS[codec] + data) == decode_text(data) == TEXT
    assert encoding_of(MARKS[codec] + data) == (codec, MARKS[codec])
    assert encoding_of(data[:4]).codec == codec


def test_data_of_a_file_of_known_encoding_is_not_guessed_again():
    with pytest.raises(BadLayout, match="not UTF-8 text"):
        decode_text(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-8")


@pytest.mark.parametrize("data", [b"\xff", b"{\xff}", codecs.BOM_UTF16_LE + b"a", b"a\0b\0c"])
def test_damaged_text_is_refused_in_one_line(data):
    with pytest.raises(BadLayout, match=r"^not UTF-\S+ text$"):
        decode_text(data)


def test_short_data_is_utf_8():
    assert [encoding_of(data).codec for data in (b"", b"{", b"{}", b"\0")] == ["utf-8"] * 4
