"""JSON lines in any encoding of Unicode, decided once per file."""

from __future__ import annotations

import codecs
import gzip
import json
from pathlib import Path

import pytest

from shards.building.contents import read_contents
from shards.building.inputs import Input, Reject
from shards.building.lines import read_lines
from shards.format.layout import BadLayout

MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
RECORDS = [{"id": f"登录{number}"} for number in range(6)]
# With characters whose encoding holds the byte of a line end.
TEXT = "\r\n".join(json.dumps({**r, "label": "\u0a0d\u0d0a"}, ensure_ascii=False) for r in RECORDS)


def written(path: Path, data: bytes) -> list[Input | Reject]:
    """Write a file and read its lines."""
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return list(read_lines(path, "x"))


@pytest.mark.parametrize("codec", MARKS)
@pytest.mark.parametrize("has_mark", [True, False])
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_every_encoding_gives_all_lines_in_utf_8(tmp_path, codec, has_mark, name):
    data = (MARKS[codec] if has_mark else b"") + TEXT.encode(codec)
    items = written(tmp_path / name, data)
    assert [json.loads(item.data)["id"] for item in items] == [r["id"] for r in RECORDS]
    assert [item.line for item in items] == list(range(1, 7))


def test_a_damaged_line_of_utf_16_is_refused_and_the_others_are_kept(tmp_path):
    lines = [line.encode("utf-16-le") for line in TEXT.split("\r\n")]
    lines[2] = b"\x00\xd8\x22\x00"  # half of a surrogate pair
    data = codecs.BOM_UTF16_LE + "\n".encode("utf-16-le").join(lines) + b"\n"
    items = written(tmp_path / "x.jsonl", data)
    refused = [item for item in items if isinstance(item, Reject)]
    assert [item.line for item in refused] == [3, 6]  # the file ends within a character
    assert all(item.reason == "not UTF-16-LE text" for item in refused)
    assert len(items) - len(refused) == 4


def test_utf_16_appended_to_utf_8_is_not_read_line_by_line(tmp_path):
    """Windows PowerShell's `>>` writes UTF-16 behind whatever the file holds."""
    first, rest = TEXT.split("\r\n", 1)
    data = f"{first}\r\n".encode() + rest.encode("utf-16-le")
    items = written(tmp_path / "x.jsonl", data)
    assert json.loads(items[0].data)["id"] == RECORDS[0]["id"]
    for item in items[1:]:
        with pytest.raises(BadLayout):
            read_contents(item)


@pytest.mark.parametrize("data", [b"", b"\n \n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, b"\n" * 9])
def test_a_file_without_lines_is_refused(tmp_path, data):
    (only,) = written(tmp_path / "x.jsonl", data)
    assert only == Reject(str(tmp_path / "x.jsonl"), "empty: holds no layout")


def test_truncated_gzip_is_named_after_its_complete_lines(tmp_path):
    whole = gzip.compress(TEXT.encode())
    path = tmp_path / "x.jsonl.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        last = list(read_lines(path, "x"))[-1]
        assert isinstance(last, Reject)
        assert last.file == str(path)
        assert "damaged gzip" in last.reason or last.reason == "empty: holds no layout"
