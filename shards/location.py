"""Locations of shards: a folder, or the address of a folder on a server."""

from __future__ import annotations

import re
from pathlib import Path

from shards.errors import UserError
from shards.optional_dependencies import require

INDEX_NAME = "index.json"

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
"""Supported protocols, and the module that each needs beside fsspec."""

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//|.*[ |])")


def protocol_of(location: str | Path) -> str | None:
    """Return the protocol of an address such as `s3://bucket/pages`; None for a folder."""
    match = _PROTOCOL.match(location) if isinstance(location, str) else None
    return None if match is None else match[1].lower()


def parse_location(text: str) -> str | Path:
    """Return a folder as a path, and an address unchanged but for a slash at its end.

    Raises UserError for an address of another protocol, with credentials in it, or with a query.
    """
    protocol = protocol_of(text)
    if protocol is None and "://" not in text:
        return Path(text)
    if protocol not in DRIVERS or "::" in text:
        allowed = ", ".join(f"{name}://" for name in DRIVERS)
        raise UserError(f"{text}: is not supported; shards are read from folders, {allowed}")
    authority, _, path = text.partition("://")[2].partition("/")
    if "@" in authority:
        raise UserError(
            f"{protocol}://...@{authority.rpartition('@')[2]}/{path}: contains credentials; remove "
            "them and set them in the environment"
        )
    if not authority or "?" in text or "#" in text:
        raise UserError(f"{text}: is not the address of a folder; remove a query, name a host")
    return text.rstrip("/")


def require_driver(location: str | Path, purpose: str) -> None:
    """Raise UserError with the install command if the driver of an address is missing."""
    protocol = protocol_of(location)
    if protocol is not None:
        for module in ("fsspec", DRIVERS[protocol]):
            require(module, "cloud", purpose)


def describe_other_files(folder: Path) -> str | None:
    """Return the error line for a source that was given in place of a folder of shards.

    Returns None if the folder has an index, is empty, or does not exist.
    """
    if folder.is_file():
        held = "is a file, not a folder of shards"
    elif not folder.is_dir() or (folder / INDEX_NAME).exists() or not any(folder.iterdir()):
        return None
    else:
        tars = any(folder.glob("*.tar")) or any(folder.glob("*.tar.gz"))
        held = "holds tars of another tool" if tars else "holds no shards"
        held += f", no {INDEX_NAME}"
    return f"{folder}: {held}; build shards of it first: python -m shards.build {folder} --out NEW"
