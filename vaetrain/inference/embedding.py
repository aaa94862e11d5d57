"""Embedding of shards: the vectors of every page with its key, id, label and template.

`EmbeddingSpace` is fitted to training pages when a run ends, and stored in its `final/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shards.reading.batch import Batch
from shards.reading.selection import Selection
from vaetrain.data.loading import PageReader
from vaetrain.data.widths import other_widths
from vaetrain.engines.base import Engine
from vaetrain.inference.each_page import for_each_page
from vaetrain.model.embedding import NAME, EmbeddingSpace
from vaetrain.model.vae import VAE

MAX_FITTED_PAGES = 2048  # training pages that the space of a finished run is fitted to


class Features(NamedTuple):
    """Features of N pages in ascending order of ids, float32 on the host.

    Attributes:
        ids: Long (N,).
        mu, logvar: (N, D); of a spatial latent the mean over its positions.
        structure: (N, S), see `vaetrain.model.embedding`.
    """

    ids: Tensor
    mu: Tensor
    logvar: Tensor
    structure: Tensor

    def fit(self, model: VAE, data: PageReader | None) -> EmbeddingSpace:
        """Fit a space to these pages.

        Args:
            data: holds the pages, of which those at two widths are found; None: they are not used.
        """
        pairs = None
        if data is not None:
            others = other_widths(data, self.ids)
            first = (others > torch.arange(len(others))).nonzero()[:, 0]
            pairs = torch.stack([first, others[first]], 1)
        sizes = model.structure_sizes
        return EmbeddingSpace.fit(self.mu, self.logvar, self.structure, sizes, pairs)

    def vectors(self, space: EmbeddingSpace) -> Tensor:
        """Return the embeddings: float64 (N, D + E + K)."""
        return space.vectors(self.mu, self.structure)


@torch.no_grad()
def page_features(model: VAE, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return `mu`, `logvar` and structure of a batch on the model's device."""
    images = batch.images()
    mu, logvar, levels = model.posterior(images, batch.heights)
    latents = [model.embed(x, batch.heights) for x in (mu, logvar)]
    return *latents, model.structure(images, batch.heights, levels)


def features_of(
    model: VAE, batches: Iterable[Batch | None], engine: Engine, *, to_main: bool = False
) -> Features | None:
    """Return the features of the pages of all ranks' batches. Collective.

    Args:
        to_main: gather on the main process alone; the other ranks return None.

    Raises DamagedShards naming the damaged shard.
    """
    sizes = [model.latent_dim, model.latent_dim, sum(model.structure_sizes)]
    gathered = for_each_page(
        lambda batch: torch.cat(page_features(model, batch), 1),
        sum(sizes),
        batches,
        engine,
        to_main=to_main,
    )
    if gathered is None:
        return None
    ids, _, table = gathered
    return Features(ids, *table.float().split(sizes, dim=1))


def fit_embedding(
    model: VAE, data: PageReader, pages: Selection, engine: Engine
) -> EmbeddingSpace | None:
    """Fit a space to pages on the main process; None on the others. Collective."""
    features = features_of(model, data.pages(pages), engine, to_main=True)
    return None if features is None else features.fit(model, data)


def embedding_arrays(
    features: Features, space: EmbeddingSpace, data: PageReader
) -> dict[str, np.ndarray]:
    """Return the content of a file of embeddings.

    Returns: one row a page in ascending order of ids: `embedding` (N, E) and `mu` (N, D), float32,
        `ids` (N,), and the texts `keys`, `page_ids` (the pages' own), `labels` and `templates`
        (N,); and the text `embedding_name`, the definition of the embedding.
    """
    ids = features.ids.numpy()
    index, rows = data.index, data.index.rows(ids)
    keys, page_ids = zip(*(data.collator.files.names(number) for number in ids), strict=True)
    return {
        "embedding": features.vectors(space).float().numpy(),
        "embedding_name": np.array(NAME),
        "mu": features.mu.numpy(),
        "ids": ids,
        "keys": np.array(keys),
        "page_ids": np.array(page_ids),
        "labels": np.array(index.labels)[rows["label"]],
        "templates": np.array(index.templates)[rows["template"]],
    }
