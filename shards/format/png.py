"""PNG decoder and encoder for wireframes that exist only as pictures.

Files are untrusted: the chunks are walked and the size is checked before a pixel is decoded. Only
the chunks of the picture itself reach the decoder (Pillow); text, colour profiles and animation
frames do not.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from shards.format.layout import MAX_AREA, MAX_BYTES, MAX_SIDE, BadLayout
from shards.source_formats import register_file_format

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURE_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Legal pairs of colour type and bits per sample (PNG specification, 11.2.2).
BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by colour type
# First column and row of each interlaced pass, and its steps (PNG specification, 8.2).
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4))
ADAM7 += ((1, 0, 2, 2), (0, 1, 1, 2))
PLAIN = (8, 0, 0, 0, 0)  # header fields from `bits` on: 8-bit grey, not interlaced


class Header(NamedTuple):
    """The fields of the IHDR chunk; sizes in pixels, `bits` per sample."""

    width: int
    height: int
    bits: int
    colour_type: int
    compression: int
    filtering: int
    interlace: int


@register_file_format("png", suffixes=(".png",), signature=SIGNATURE, is_picture=True)
def decode_png(data: bytes, *, check_rows: bool = True) -> np.ndarray:
    """Decode any still PNG to grey values.

    Colours are converted to luminance (ITU-R BT.601), transparent pixels are composited over 0,
    16-bit samples are rounded to 8 bits; gamma and colour profiles are ignored. Of a black picture
    whose shape is in its alpha channel, the opacity is returned.

    Args:
        data: the bytes of the file.
        check_rows: refuse a file with fewer or more rows than its header states. Decompresses
            twice; not needed for a picture of `encode_png`.

    Returns:
        uint8 array (height, width) of values 0..255.

    Raises:
        BadLayout: not a PNG, damaged, animated, or larger than `shards.format.layout` allows.
    """
    header, chunks = _checked_chunks(data)
    kinds = [chunk[4:8] for chunk in chunks]
    try:
        rows = b"".join(chunk[8:-4] for chunk in chunks if chunk[4:8] == b"IDAT")
        if check_rows:
            _check_rows(rows, header)
        if header[2:] == PLAIN and b"tRNS" not in kinds:
            # Most files are of this kind. Decoding the rows without Pillow's file reader is faster.
            return np.asarray(Image.frombytes("L", header[:2], rows, "zip", "L", 0))
        image = PngImageFile(io.BytesIO(SIGNATURE + b"".join(chunks)))
        return _gray(image, header)
    except BadLayout:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise BadLayout(f"damaged PNG: {error}") from error


def encode_png(gray: np.ndarray) -> bytes:
    """Encode a uint8 array (height, width) as an 8-bit grayscale PNG.

    Equal arrays give equal bytes under one version of Pillow. No time and no text is written.
    """
    if gray.dtype != np.uint8 or gray.ndim != 2:
        raise ValueError(f"expected a uint8 array (height, width), got {gray.dtype} {gray.shape}")
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "PNG", compress_level=9)
    return stream.getvalue()


def _checked_chunks(data: bytes) -> tuple[Header, list[bytes]]:
    """Return the header of a PNG and the chunks of its picture; raise BadLayout if one is bad."""
    if len(data) > MAX_BYTES:
        raise BadLayout(f"file of {len(data)} bytes, more than the limit of {MAX_BYTES} bytes")
    if not data.startswith(SIGNATURE):
        raise BadLayout("not a PNG: the file is empty" if not data else "not a PNG: no signature")
    header, chunks, at, kind = None, [], len(SIGNATURE), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise BadLayout("truncated PNG: no end chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise BadLayout(f"truncated PNG: chunk {kind.decode('latin-1')!r} is cut off")
        if header is None:
            header = _checked_header(kind, data[at + 8 : end - 4])
        elif kind == b"IHDR":
            raise BadLayout("damaged PNG: two header chunks")
        if kind == b"acTL":
            raise BadLayout("animated PNG; only still pictures are read")
        if kind in PICTURE_CHUNKS:
            if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise BadLayout(f"damaged PNG: wrong checksum of chunk {kind.decode()}")
            chunks.append(data[at:end])
        at = end
    if header.colour_type == 3 and not any(chunk[4:8] == b"PLTE" for chunk in chunks):
        raise BadLayout("damaged PNG: palette colours without a palette")
    return header, chunks


def _checked_header(kind: bytes, content: bytes) -> Header:
    if kind != b"IHDR" or len(content) != 13:
        raise BadLayout("damaged PNG: the first chunk is not a header")
    header = Header(*struct.unpack(">IIBBBBB", content))
    if not (1 <= header.width <= MAX_SIDE and 1 <= header.height <= MAX_SIDE):
        raise BadLayout(
            f"picture of {header.width} x {header.height} px, sides must be in 1..{MAX_SIDE}"
        )
    if header.width * header.height > MAX_AREA:
        raise BadLayout(f"picture of {header.width} x {header.height} px, more than {MAX_AREA} px")
    if header.bits not in BIT_DEPTHS.get(header.colour_type, ()):
        raise BadLayout(
            f"damaged PNG: colour type {header.colour_type} cannot have {header.bits} bits"
        )
    return header


def _check_rows(data: bytes, header: Header) -> None:
    """Raise BadLayout unless the compressed rows are complete: Pillow fills missing rows with 0."""
    stream, size = zlib.decompressobj(), _rows_size(header)
    try:
        length = len(stream.decompress(data, size + 1))
    except zlib.error as error:
        raise BadLayout(f"damaged PNG: {error}") from None
    if length < size:
        raise BadLayout(f"damaged PNG: truncated: {length} of {size} bytes of rows")
    if length > size:
        raise BadLayout(f"damaged PNG: more rows than the {header.height} of its header")
    if not stream.eof and stream.decompress(stream.unconsumed_tail, 1) + stream.unconsumed_tail:
        raise BadLayout(f"damaged PNG: more rows than the {header.height} of its header")
    if not stream.eof:
        raise BadLayout("damaged PNG: truncated: the end of its rows is missing")


def _rows_size(header: Header) -> int:
    """Return the bytes of all rows before compression, each with its filter byte."""
    passes = ADAM7 if header.interlace else ((0, 0, 1, 1),)
    bits, size = header.bits * SAMPLES[header.colour_type], 0
    for left, top, step_x, step_y in passes:
        columns = -(-(header.width - left) // step_x)
        rows = -(-(header.height - top) // step_y)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * bits // 8))
    return size


def _gray(image: PngImageFile, header: Header) -> np.ndarray:
    """Return luminance times opacity, or opacity if that is 0 everywhere: uint8 (height, width)."""
    image.load()
    key = image.info.get("transparency")
    if header.colour_type == 0:
        return _gray_samples(np.asarray(image), header.bits, key)
    if header.colour_type == 2:
        gray = np.array(image.convert("L"))
        if key is not None:
            # Pillow keeps the high byte of 16-bit colours, so that byte of the key is compared.
            high = np.array(key) >> (header.bits - 8)
            gray[(np.asarray(image) == high).all(axis=-1)] = 0
        return gray
    image = image.convert("RGBA")
    opacity = np.asarray(image.getchannel("A"), dtype=np.uint16)
    gray = np.asarray(image.convert("L"), dtype=np.uint16)
    composite = ((gray * opacity + 127) // 255).astype(np.uint8)
    return composite if composite.any() else opacity.astype(np.uint8)


def _gray_samples(samples: np.ndarray, bits: int, key: int | None) -> np.ndarray:
    """Convert Pillow's grey samples (bool, uint8 or 16 bits) to uint8; `key` becomes 0."""
    if bits == 1:
        gray = np.where(samples, np.uint8(255), np.uint8(0))
        key = None if key is None else 255 * bool(key)
    elif bits == 16:
        gray = ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    else:
        gray = np.array(samples)
        # Pillow scales the samples to 8 bits, but not the key.
        key = None if key is None else key * (255 // (2**bits - 1))
    if key is not None:
        gray[(samples if bits == 16 else gray) == key] = 0
    return gray
