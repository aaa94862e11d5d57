"""Decoder of JSON texts from untrusted files."""

from __future__ import annotations

import json

from shards.format.layout import BadLayout
from shards.format.text import decode_text

CAPTURE = "python -m shards.capture {source} --out layouts.jsonl.gz"
"""Command that makes layouts of web pages."""

_HTML = ("<!doctype html", "<html")


def decode_json(data: bytes, codec: str | None = None) -> object:
    """Decode one JSON value; raise `BadLayout` if the data is not JSON.

    NaN and Infinity are accepted here: a box that has them is skipped as one without area.

    codec: encoding of the file that the data is a part of; None: found by `encoding_of`.
    """
    text = decode_text(data, codec)
    try:
        return json.loads(text)
    except RecursionError:
        raise BadLayout("JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        if is_html(text):
            raise BadLayout(
                f"a web page (HTML), not a layout; run: {CAPTURE.format(source='SOURCE...')}"
            ) from None
        fault = "cut off" if error.pos >= len(text.rstrip()) else "invalid"
        raise BadLayout(f"JSON is {fault} at character {error.pos}: {error.msg}") from None
    except ValueError:
        raise BadLayout("JSON has a number of thousands of digits") from None


def is_html(text: str) -> bool:
    """Return whether a text begins as an HTML page does."""
    return text[:200].lstrip().lower().startswith(_HTML)
