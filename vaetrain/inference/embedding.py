"""Embedding of shards: the latent of every page with its key, id, label and template."""

from __future__ import annotations

import numpy as np

from vaetrain.data.loading import PageReader
from vaetrain.inference.trained_model import TrainedModel


def embed_pages(trained: TrainedModel, data: PageReader) -> dict[str, np.ndarray]:
    """Encode all pages of some shards. Collective.

    Returns: one row a page in ascending order of ids: `mu` float32 (N, D), `ids` (N,), and the
        texts `keys`, `page_ids` (the pages' own), `labels` and `templates` (N,).
    """
    ids, mu = (tensor.numpy() for tensor in trained.search_features_of_all(data)[:2])
    index, rows = data.index, data.index.rows(ids)
    keys, page_ids = zip(*(data.collator.files.names(number) for number in ids), strict=True)
    return {
        "mu": mu,
        "ids": ids,
        "keys": np.array(keys),
        "page_ids": np.array(page_ids),
        "labels": np.array(index.labels)[rows["label"]],
        "templates": np.array(index.templates)[rows["template"]],
    }
