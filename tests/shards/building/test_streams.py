"""Source files as streams, decompressed by name."""

import gzip

import pytest

from shards.building.streams import open_source, read_whole, unzipped
from shards.format.layout import MAX_BYTES, BadLayout


def test_a_file_is_decompressed_if_its_name_says_so(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"content"))
    (tmp_path / "a.json").write_bytes(gzip.compress(b"content"))
    assert read_whole(tmp_path / "a.json.gz") == b"content"
    assert read_whole(tmp_path / "a.json") == gzip.compress(b"content")
    assert unzipped("a.xml.GZ", gzip.compress(b"content")) == b"content"
    assert unzipped("a.xml", b"content") == b"content"


@pytest.mark.parametrize("cut", [1, 5, 9, 18])
def test_damaged_gzip_is_refused(tmp_path, cut):
    data = gzip.compress(b"content")[:-cut]
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(BadLayout, match="damaged gzip"):
        read_whole(tmp_path / "a.gz")
    with pytest.raises(BadLayout, match="damaged gzip"):
        unzipped("a.gz", data)
    with pytest.raises(BadLayout, match="damaged gzip"), open_source(tmp_path / "a.gz") as stream:
        stream.read()


def test_more_than_the_limit_is_refused(tmp_path):
    data = gzip.compress(bytes(MAX_BYTES + 1), 1)
    (tmp_path / "a.gz").write_bytes(data)
    for read in (lambda: read_whole(tmp_path / "a.gz"), lambda: unzipped("a.gz", data)):
        with pytest.raises(BadLayout, match=f"longer than {MAX_BYTES} bytes"):
            read()
