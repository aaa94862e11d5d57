"""Wireframe shards: layouts in, WebDataset tars and an index out, and back in as batches."""
