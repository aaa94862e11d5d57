"""Search for the pages of some shards that are most similar to a query page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.reading.batch import Batch
from vaetrain.data.loading import PageReader
from vaetrain.inference.embedding import page_features
from vaetrain.inference.trained_model import TrainedModel
from vaetrain.page_pictures import cut_pages


@dataclass(frozen=True)
class SearchResult:
    """A page with its distance from the query, 0 to 2 (see `vaetrain.model.embedding`).

    id: sample id.
    page_id: the page's own id in its source.
    """

    id: int
    key: str
    page_id: str
    label: str
    template: str
    distance: float


def search_pages(
    trained: TrainedModel, data: PageReader, query: Batch, count: int
) -> list[SearchResult]:
    """Return the `count` pages nearest to a single page, nearest first."""
    features = trained.features(data)
    space = trained.space_for(features)
    batch = query.to(trained.engine.device)
    mu, _, structure = (tensor.cpu() for tensor in page_features(trained.model, batch))
    distances = (features.vectors(space) - space.vectors(mu, structure)).norm(dim=1)
    nearest = distances.argsort(stable=True)[:count]
    results, index = [], data.index
    for number, distance in zip(
        features.ids[nearest].numpy(), distances[nearest].tolist(), strict=True
    ):
        row = index.table[number]
        label, template = index.labels[row["label"]], index.templates[row["template"]]
        key, page_id = data.collator.files.names(number)
        results.append(SearchResult(number, key, page_id, label, template, distance))
    return results


def result_pictures(data: PageReader, results: list[SearchResult]) -> list[np.ndarray]:
    """Return the pictures of found pages, uint8 (height, W) each."""
    batch = data.batch_of(np.array([result.id for result in results]))
    return cut_pages(batch.images(), batch.heights)
