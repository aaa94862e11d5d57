"""JSON of untrusted files."""

import pytest

from shards.format.json_text import decode_json
from shards.format.layout import BadLayout


def test_json_in_utf_16_is_decoded():
    assert decode_json('{"a": "登"}'.encode("utf-16")) == {"a": "登"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b'{"a": 1', "cut off"),
        (b"{'a': 1}", "invalid at character 1"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 9999, "thousands of digits"),
        (b"\xff", "not UTF-8 text"),
        (b"\n<!DOCTYPE html><html>", "run: python -m shards.capture SOURCE"),
    ],
)
def test_other_data_is_refused_in_one_line(data, message):
    with pytest.raises(BadLayout, match=message) as refusal:
        decode_json(data)
    assert len(str(refusal.value).splitlines()) == 1
