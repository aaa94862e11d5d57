"""Wireframe shards: builder of WebDataset tars with an index, and reader of batches from them."""
