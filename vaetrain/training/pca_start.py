"""Start the linear path from the principal components of the training pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.engines.base import Engine
from vaetrain.inference.each_page import for_each_page
from vaetrain.model.vae import VAE

if TYPE_CHECKING:  # which builds on the baselines, and they on what is here
    from vaetrain.data.loading import TrainingData
from vaetrain.evaluation.pca import principal_components

PAGES = 4096  # that components are computed from, at most


def start_from_pca(model: VAE, data: TrainingData, engine: Engine) -> None:
    """Set the model's linear path to the components of evenly chosen training pages. Collective."""

    def measure(batch: Batch) -> Tensor:
        return model.linear.coarse(batch.images())

    pages = data.pages(data.train.thinned(PAGES))
    _, _, table = for_each_page(measure, model.linear.to_mu.in_features, pages, engine)
    found = principal_components(table, model.latent_dim)
    # One rank's result for all: on another kind of machine the last digits may differ.
    model.start_from_pca(*(engine.broadcast(x.float().to(engine.device)) for x in found))
