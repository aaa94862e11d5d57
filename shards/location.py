"""Locations of shards: a folder, or the address of one."""

from __future__ import annotations

import re
from pathlib import Path

from shards.errors import UserError
from shards.extras import require

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
"""The protocols that are read, and the module that each needs beside fsspec."""


_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//|.*[ |])")


def protocol_of(location: str | Path) -> str | None:
    """The protocol of an address such as `s3://bucket/pages`; None for a folder."""
    found = _PROTOCOL.match(location) if isinstance(location, str) else None
    return None if found is None else found[1].lower()


def parse_location(text: str) -> str | Path:
    """A folder as a path, or an address as it is.

    Raises UserError for addresses that are not read: of other protocols, with a password in them,
    or with a query.
    """
    protocol = protocol_of(text)
    if protocol is None and "://" not in text:
        return Path(text)
    if protocol not in DRIVERS or "::" in text:
        allowed = ", ".join(f"{name}://" for name in DRIVERS)
        raise UserError(f"{text}: shards are read from folders, {allowed}, and nothing else")
    authority, _, path = text.partition("://")[2].partition("/")
    if "@" in authority:
        raise UserError(
            f"{protocol}://...@{authority.rpartition('@')[2]}/{path}: holds credentials; these "
            "come from the environment alone"
        )
    if not authority or "?" in text or "#" in text:
        raise UserError(f"{text}: is not the address of a folder")
    return text.rstrip("/")


def require_driver(location: str | Path, purpose: str) -> None:
    """Raise UserError, naming the extra to install, where an address's driver is missing."""
    protocol = protocol_of(location)
    if protocol is not None:
        for module in ("fsspec", DRIVERS[protocol]):
            require(module, "cloud", purpose)
