"""Builder of shards: sources to pages, deduplication, split, tars and index.

Importing the package registers the page generator, see `shards.source_formats`.
"""

from shards.synthetic import archetypes  # noqa: F401
