"""Opening of shards, in a folder or on a server."""

from __future__ import annotations

from pathlib import Path

from shards.format.index import Index
from shards.location import protocol_of
from shards.remote.cache import CacheOptions, open_cache


def open_index(location: str | Path, options: CacheOptions | None = None) -> Index:
    """Open the index of a folder, or of an address such as `s3://bucket/pages`.

    Args:
        options: cache settings for an address; None: the defaults.

    Raises `UserError` for an address that is not supported or has no driver installed, and
    `DamagedShards` for a damaged index, as `Index.of_folder` does.
    """
    if protocol_of(location) is not None:
        return Index.of_folder(*open_cache(location, options))
    return Index.of_folder(Path(location))
