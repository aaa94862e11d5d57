"""JPEG pictures: decoded to grey, and refused if anything is missing."""

import io

import numpy as np
import pytest
from PIL import Image

from shards.format.jpeg import END, decode_jpeg
from shards.format.layout import MAX_SIDE, BadLayout

GRAY = np.zeros((60, 50), np.uint8)
GRAY[10:50, 10:30] = 90
GRAY[20:40, 15:45] += 60


def encoded(gray: np.ndarray, mode: str = "L", **options: object) -> bytes:
    """Return a JPEG of a picture."""
    stream = io.BytesIO()
    Image.fromarray(gray).convert(mode).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_decoded_to_grey(mode, progressive):
    decoded = decode_jpeg(encoded(GRAY, mode, progressive=progressive))
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - GRAY).max() <= 25  # noise of the compression at edges


def test_truncated_anywhere_is_refused():
    whole = encoded(GRAY)
    for length in range(len(whole) - 1):
        with pytest.raises(BadLayout):
            decode_jpeg(whole[:length])


def test_rows_missing_before_the_end_marker_are_refused():
    whole = encoded(GRAY)
    start = whole.index(b"\xff\xda")
    cuts = range(start + 20, len(whole) - 6, 7)
    for length in cuts:
        with pytest.raises(BadLayout, match="JPEG"):
            decode_jpeg(whole[:length] + END)


def test_bytes_behind_the_end_are_ignored():
    whole = encoded(GRAY)
    np.testing.assert_array_equal(decode_jpeg(whole + b"more"), decode_jpeg(whole))


def test_a_picture_over_the_limits_is_refused_before_it_is_decoded():
    data = bytearray(encoded(GRAY))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = (40_000).to_bytes(2, "big") * 2
    with pytest.raises(BadLayout, match=f"sides must be in 1..{MAX_SIDE}"):
        decode_jpeg(bytes(data))
    data[place : place + 4] = (20_000).to_bytes(2, "big") * 2
    with pytest.raises(BadLayout, match="more than 100000000 px"):
        decode_jpeg(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n", b"\xff\xd8\xff\xd9"])
def test_other_data_is_refused_in_one_line(data):
    with pytest.raises(BadLayout, match="JPEG") as refusal:
        decode_jpeg(data)
    assert len(str(refusal.value).splitlines()) == 1
