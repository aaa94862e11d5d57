"""A trained model with a few pages for evaluation tests."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shards.build import build
from shards.building.options import BuildOptions
from shards.reading.batch import Batch
from tests.support.models import perturbed_model
from tests.support.paths import SAMPLE
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import load_experiment
from vaetrain.data.loading import PageReader
from vaetrain.inference.trained_model import TrainedModel

SETTINGS = ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]


@pytest.fixture(scope="package")
def trained(tmp_path_factory) -> tuple[TrainedModel, PageReader]:
    """A model with random weights, whose decoded pages depend on the latent, and 19 pages."""
    folder = tmp_path_factory.mktemp("evaluation")
    build([SAMPLE], folder / "shards", BuildOptions(count=19, workers=1))
    experiment = load_experiment(None, SETTINGS)
    model = perturbed_model(experiment.model, 64, 128, 0.05)
    for parameter in model.linear.parameters():
        parameter.detach().add_(10 * torch.randn_like(parameter))
    write_final(folder / "run" / "final", model, experiment, {}, {})
    trained = TrainedModel(folder / "run")
    return trained, trained.open_shards(folder / "shards")


def single_page(data: PageReader, number: int) -> Batch:
    """Return one page as a batch, not padded to other pages."""
    return data.collator.batch(np.array([number]), np.array([0]), training=False)


@pytest.fixture
def torch_cache(monkeypatch, tmp_path) -> Path:
    """An empty torch cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder
