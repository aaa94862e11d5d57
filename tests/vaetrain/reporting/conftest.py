"""A random model with its outputs for validation pages."""

from pathlib import Path

import numpy as np

from tests.support.engines import FakeEngine
from tests.support.models import perturbed_model
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import TrainingData
from vaetrain.evaluation.validation import EncodedPages, compared_ids, encode_pages
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAE
from vaetrain.schedules import weights_at

SETTINGS = ("data.width=64", "data.max_height=128", "model.size=tiny", "model.start=random")


def validation(
    shards: Path, *settings: str, count: int = 12
) -> tuple[VAE, TrainingData, EncodedPages]:
    """Return a random model, its data and its outputs for the compared ones of `count` pages."""
    experiment = load_experiment(None, [*SETTINGS, f"data.shards={shards}", *settings])
    model = perturbed_model(experiment.model, 64, 128, 0.02).eval()
    data = TrainingData(
        experiment.data,
        FakeEngine(),
        model.stride,
        seed=0,
        global_batch_size=experiment.train.global_batch_size,
    )
    data.val = data.select("all").thinned(count)
    ids = data.val.ids_at(np.arange(len(data.val)))
    batch = data.collator.batch(ids, np.zeros_like(ids), training=False)
    weights = weights_at(experiment, 1.0, 2.0)
    compared = compared_ids(data.val, data.compared)
    encoded = encode_pages(model, [batch], FakeEngine(), Objective(experiment), weights, compared)
    return model, data, encoded.pages
