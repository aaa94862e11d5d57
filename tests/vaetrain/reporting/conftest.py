"""A random model with its outputs for validation pages."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shards.build import build
from shards.building.options import BuildOptions
from tests.support.models import perturbed_model
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import TrainingData
from vaetrain.evaluation.validation import EncodedPages, encode_pages
from vaetrain.losses.objective import Objective
from vaetrain.model.vae import VAE
from vaetrain.schedules import weights_at

REPO = Path(__file__).resolve().parents[3]
ONE_RANK = SimpleNamespace(
    device=torch.device("cpu"),
    rank=0,
    world_size=1,
    gather_ragged=lambda rows: rows,
    mark_progress=lambda activity: None,
)
SETTINGS = ("data.width=64", "data.max_height=128", "model.size=tiny", "model.start=random")


@pytest.fixture(scope="package")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    build([REPO / "shards" / "sample"], folder, BuildOptions(count=60, workers=1))
    return folder


def validation(
    shards: Path, *settings: str, count: int = 12
) -> tuple[VAE, TrainingData, EncodedPages]:
    """Return a random model, its data and its outputs for `count` validation pages."""
    experiment = load_experiment(None, [*SETTINGS, f"data.shards={shards}", *settings])
    model = perturbed_model(experiment.model, 64, 128, 0.02).eval()
    data = TrainingData(
        experiment.data,
        ONE_RANK,
        model.stride,
        seed=0,
        global_batch_size=experiment.train.global_batch_size,
    )
    data.val = data.select("all").thinned(count)
    ids = data.val.ids_at(np.arange(len(data.val)))
    batch = data.collator.batch(ids, np.zeros_like(ids), training=False)
    weights = weights_at(experiment, 1.0, 2.0)
    return model, data, encode_pages(model, [batch], ONE_RANK, Objective(experiment), weights)
