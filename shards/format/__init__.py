"""The format on disk: index, tars, layouts and PNG files."""
