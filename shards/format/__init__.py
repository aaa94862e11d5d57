"""Formats on disk: layouts, pictures, tars and the index.

Importing the package registers the source formats of these modules, see `shards.source_formats`.
"""

from shards.format import element_list, figma, jpeg, png, schemas, uiautomator  # noqa: F401
