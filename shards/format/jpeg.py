"""JPEG decoder for wireframes that exist only as pictures.

Files are untrusted: the size in the header is checked before a pixel is decoded.
"""

from __future__ import annotations

import io

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from shards.format.layout import MAX_AREA, MAX_BYTES, MAX_SIDE, BadLayout
from shards.source_formats import register_file_format

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
_FILLING = bytes((0x5A, 0xC3, 0x17, 0xE8)) * 64


@register_file_format("jpeg", suffixes=(".jpg", ".jpeg"), signature=SIGNATURE, is_picture=True)
def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG to grey values; colours are converted to luminance (ITU-R BT.601).

    Args:
        data: the bytes of the file.

    Returns:
        uint8 array (height, width) of values 0..255.

    Raises:
        BadLayout: not a JPEG, damaged, truncated, or larger than `shards.format.layout` allows.
    """
    if len(data) > MAX_BYTES:
        raise BadLayout(f"file of {len(data)} bytes, more than the limit of {MAX_BYTES} bytes")
    if not data.startswith(SIGNATURE):
        raise BadLayout("not a JPEG: the file is empty" if not data else "not a JPEG: no signature")
    end = data.rfind(END)
    if end < 0:
        raise BadLayout("truncated JPEG: no end marker")
    gray = _decoded(data)
    # The decoder fills rows that are missing before the end marker. It ignores bytes behind the
    # last row, but takes them for rows that are missing, which changes the picture.
    if not np.array_equal(gray, _decoded(data[:end] + _FILLING + END)):
        raise BadLayout("truncated JPEG: rows are missing")
    return gray


def _decoded(data: bytes) -> np.ndarray:
    try:
        image = JpegImageFile(io.BytesIO(data))
        width, height = image.size
        if max(width, height) > MAX_SIDE:
            raise BadLayout(f"picture of {width} x {height} px, sides must be in 1..{MAX_SIDE}")
        if width * height > MAX_AREA:
            raise BadLayout(f"picture of {width} x {height} px, more than {MAX_AREA} px")
        return np.asarray(image.convert("L"))
    except BadLayout:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError) as error:
        raise BadLayout(f"damaged JPEG: {error}") from error
