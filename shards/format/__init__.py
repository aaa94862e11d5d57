"""Formats on disk: layouts, pictures, tars and the index.

Importing the package registers the source formats of these modules, see `shards.source_formats`.
"""

from shards.format import jpeg, png, schemas  # noqa: F401
