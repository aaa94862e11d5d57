"""PNG decoding of hand-made files of every colour type, and refusal of invalid files."""

import struct
import zlib

import numpy as np
import pytest

from shards.format.layout import MAX_AREA, MAX_SIDE, BadLayout
from shards.format.png import SIGNATURE, decode_png, encode_png

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def make_png(colour_type: int, bits: int, samples: list, *extra: bytes, size=None) -> bytes:
    """Return a PNG of `samples` (rows x columns x channels); `size`: a wrong (width, height)."""
    rows = np.array(samples).reshape(len(samples), -1, CHANNELS[colour_type])
    width, height = size or (rows.shape[1], rows.shape[0])
    scanlines = b""
    for row in rows:
        binary = "".join(f"{value:0{bits}b}" for value in row.ravel())
        binary += "0" * (-len(binary) % 8)
        scanlines += b"\0" + int(binary, 2).to_bytes(len(binary) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(scanlines))]
    return SIGNATURE + b"".join(parts) + chunk(b"IEND", b"")


def luminance(red: int, green: int, blue: int) -> float:
    return 0.299 * red + 0.587 * green + 0.114 * blue


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_of_any_depth_spans_the_range(bits):
    top = 2**bits - 1
    samples = [[0, top, top // 2], [top, top // 3, 0]]
    expected = np.round(np.array(samples) * 255 / top)
    np.testing.assert_array_equal(decode_png(make_png(GRAY, bits, samples)), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_with_a_transparent_value(bits):
    top = 2**bits - 1
    key = chunk(b"tRNS", struct.pack(">H", top))
    decoded = decode_png(make_png(GRAY, bits, [[0, top - 1, top]], key))
    np.testing.assert_array_equal(decoded, [[0, round((top - 1) * 255 / top), 0]])


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_is_luminance(bits):
    scale = 257 if bits == 16 else 1
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 90]]])
    decoded = decode_png(make_png(RGB, bits, colours * scale))
    expected = [[luminance(*colour) for colour in colours[0]]]
    np.testing.assert_allclose(decoded, expected, atol=0.51)
    key = chunk(b"tRNS", struct.pack(">3H", *(colours[0, 3] * scale)))
    decoded_with_key = decode_png(make_png(RGB, bits, colours * scale, key))
    np.testing.assert_array_equal(decoded_with_key, [[*decoded[0, :3], 0]])


@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_is_composited_over_0(bits):
    scale = 257 if bits == 16 else 1
    gray = np.array([[[200, 255], [200, 128], [200, 0], [255, 51]]])
    expected = [[200, 200 * 128 / 255, 0, 51]]
    decoded = decode_png(make_png(GRAY_ALPHA, bits, gray * scale))
    np.testing.assert_allclose(decoded, expected, atol=0.51)
    colour = np.repeat(gray, [3, 1], axis=-1)
    decoded = decode_png(make_png(RGBA, bits, colour * scale))
    np.testing.assert_allclose(decoded, expected, atol=0.51)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_with_and_without_transparency(bits):
    palette = chunk(b"PLTE", bytes([200, 200, 200, 0, 255, 0]))
    samples = [[0, 1, 0], [1, 1, 0]]
    green = round(luminance(0, 255, 0))
    opaque = decode_png(make_png(PALETTE, bits, samples, palette))
    np.testing.assert_array_equal(opaque, np.array([200, green])[np.array(samples)])
    opacity = chunk(b"tRNS", bytes([51]))
    mixed = decode_png(make_png(PALETTE, bits, samples, palette, opacity))
    np.testing.assert_array_equal(mixed, np.array([40, green])[np.array(samples)])


def test_encoding_is_lossless_deterministic_and_without_extra_chunks():
    gray = np.random.default_rng(0).integers(0, 256, (37, 23), dtype=np.uint8)
    data = encode_png(gray)
    np.testing.assert_array_equal(decode_png(data), gray)
    assert data == encode_png(np.asfortranarray(gray))
    assert [data[12:16], data[37:41], data[-8:-4]] == [b"IHDR", b"IDAT", b"IEND"]
    with pytest.raises(ValueError, match="uint8"):
        encode_png(gray.astype(np.float32))


def test_extra_chunks_are_not_decoded():
    compressed_text = chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(10**8)))
    data = make_png(GRAY, 8, [[7]], compressed_text, chunk(b"iCCP", b"nonsense"))
    np.testing.assert_array_equal(decode_png(data), [[7]])


def test_truncated_anywhere_is_refused():
    data = encode_png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for length in range(len(data)):
        with pytest.raises(BadLayout, match="PNG"):
            decode_png(data[:length])


def test_every_changed_byte_of_the_picture_is_refused():
    data = encode_png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(BadLayout):
            decode_png(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is text, not a picture", "not a PNG"),
        (make_png(GRAY, 8, [[1]], size=(10**9, 1)), f"sides must be in 1..{MAX_SIDE}"),
        (make_png(GRAY, 8, [[1]], size=(30_000, 30_000)), f"more than {MAX_AREA}"),
        (make_png(GRAY, 8, [[1]], size=(0, 5)), "sides must be"),
        (make_png(GRAY, 8, [[1]], size=(30, 30)), "damaged PNG"),
        (make_png(GRAY, 8, [[1]], chunk(b"acTL", struct.pack(">II", 2, 0))), "animated"),
        (make_png(RGB, 4, [[1, 2, 3]]), "colour type 2 cannot have 4 bits"),
        (make_png(PALETTE, 8, [[0]]), "without a palette"),
        (make_png(GRAY, 8, [[1]], chunk(b"IHDR", bytes(13))), "two header chunks"),
        (SIGNATURE + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "the first chunk is not a header"),
    ],
)
def test_a_bad_png_is_refused_in_one_line(data, reason):
    with pytest.raises(BadLayout, match=reason) as refusal:
        decode_png(data)
    assert "\n" not in str(refusal.value)


def with_rows(colour_type: int, bits: int, rows: bytes, interlace: int = 0) -> bytes:
    """Return a PNG of 40 x 64 px with these compressed rows, whatever they hold."""
    header = struct.pack(">IIBBBBB", 40, 64, bits, colour_type, 0, 0, interlace)
    palette = chunk(b"PLTE", bytes(range(6))) if colour_type == PALETTE else b""
    parts = chunk(b"IHDR", header) + palette + chunk(b"IDAT", rows)
    return SIGNATURE + parts + chunk(b"IEND", b"")


def rows_of(colour_type: int, bits: int, count: int) -> bytes:
    """Return rows of 40 px before compression, all black."""
    return bytes(count * (1 + 40 * bits * CHANNELS[colour_type] // 8))


KINDS = [(GRAY, 1), (GRAY, 8), (GRAY, 16), (RGB, 8), (PALETTE, 2), (GRAY_ALPHA, 8), (RGBA, 16)]


@pytest.mark.parametrize(("colour_type", "bits"), KINDS)
def test_a_picture_with_other_rows_than_its_header_states_is_refused(colour_type, bits):
    for count, message in ((10, "truncated"), (63, "truncated"), (65, "more rows"), (0, "trunc")):
        rows = zlib.compress(rows_of(colour_type, bits, count))
        with pytest.raises(BadLayout, match=message):
            decode_png(with_rows(colour_type, bits, rows))
    whole = zlib.compress(rows_of(colour_type, bits, 64))
    assert decode_png(with_rows(colour_type, bits, whole)).shape == (64, 40)
    for cut in range(1, len(whole)):
        with pytest.raises(BadLayout, match="PNG"):
            decode_png(with_rows(colour_type, bits, whole[:-cut]))


def test_an_interlaced_picture_is_decoded_and_refused_if_it_is_truncated():
    samples = [(c, r) for c, r in ((5, 8), (5, 8), (10, 8), (10, 16), (20, 16), (20, 32), (40, 32))]
    whole = b"".join((b"\0" + bytes([9]) * columns) * rows for columns, rows in samples)
    assert (decode_png(with_rows(GRAY, 8, zlib.compress(whole), interlace=1)) == 9).all()
    with pytest.raises(BadLayout, match="truncated"):
        decode_png(with_rows(GRAY, 8, zlib.compress(whole[:-41]), interlace=1))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_black_picture_is_read_from_its_alpha_channel(bits):
    scale = 257 if bits == 16 else 1
    opacity = np.array([[0, 51, 255, 255], [0, 0, 128, 255]])
    gray = np.stack([np.zeros_like(opacity), opacity], axis=-1) * scale
    np.testing.assert_array_equal(decode_png(make_png(GRAY_ALPHA, bits, gray)), opacity)
    colour = np.stack([np.zeros_like(opacity)] * 3 + [opacity], axis=-1) * scale
    np.testing.assert_array_equal(decode_png(make_png(RGBA, bits, colour)), opacity)
    palette = chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", bytes([0, 200]))
    decoded = decode_png(make_png(PALETTE, 8, [[0, 1, 1]], palette))
    np.testing.assert_array_equal(decoded, [[0, 200, 200]])


def test_rows_of_an_own_picture_need_no_check():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(decode_png(encode_png(gray), check_rows=False), gray)
