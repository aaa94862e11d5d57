"""Texts of a page's record: id, label, template and others, in any script."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from shards.format.layout import MAX_TEXT, BadLayout, describe_value

TEXT_KEYS = ("id", "label", "template", "source", "license", "viewport", "url_path")

_MAX_NUMBER = 10**9  # of `viewport`, px
_DIGEST_BYTES = 8


def metadata_of(record: dict) -> dict[str, Any]:
    """Return the texts of a record that are not empty.

    Numbers are converted to text, except `viewport`. A text of more than `MAX_TEXT` characters is
    shortened; `shortened` counts these texts if there are any. Raises `BadLayout` naming a key
    whose value is not a text.
    """
    meta: dict[str, Any] = {}
    for name in TEXT_KEYS:
        value = record.get(name)
        if value is None or value == "":
            continue
        if type(value) is int and name == "viewport" and 0 <= value <= _MAX_NUMBER:
            meta[name] = value
            continue
        if type(value) is int and abs(value) < 1 << 64:  # ids and classes are often plain numbers
            value = str(value)
        if not isinstance(value, str):
            raise BadLayout(f'"{name}" is {describe_value(value)}, not a text')
        if len(value) > MAX_TEXT:
            meta["shortened"] = meta.get("shortened", 0) + 1
        meta[name] = short_text(value)
    return meta


def short_text(text: str, limit: int = MAX_TEXT) -> str:
    """Return a text that can be written to a file, of at most `limit` characters.

    The end of a longer text is replaced by "~" and a hash of the whole text, so that texts with the
    same beginning stay different. JSON and file names can hold lone surrogates, which cannot be
    written to a file; each becomes "?".
    """
    if len(text) > limit:
        data = text.encode("utf-8", "surrogatepass")
        digest = blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
        text = f"{text[: limit - len(digest) - 1]}~{digest}"
    return text.encode("utf-8", "replace").decode()
