"""Initialisation of the linear path by a PCA of the training pages."""

from __future__ import annotations

from torch import Tensor

from shards.reading.batch import Batch
from vaetrain.data.loading import TrainingData
from vaetrain.engines.base import Engine
from vaetrain.inference.each_page import for_each_page
from vaetrain.model.pca import shared_principal_components
from vaetrain.model.vae import VAE

PAGES = 4096  # the most pages that the PCA is computed from


def start_from_pca(model: VAE, data: TrainingData, engine: Engine) -> None:
    """Set the model's linear path to the PCA of evenly chosen training pages. Collective."""

    def measure(batch: Batch) -> Tensor:
        return model.linear.coarse(batch.images())

    pages = data.pages(data.train.thinned(PAGES))
    _, _, table = for_each_page(measure, model.linear.to_mu.in_features, pages, engine)
    pca = shared_principal_components(table, model.latent_dim, engine)
    model.start_from_pca(*(part.float() for part in pca))
