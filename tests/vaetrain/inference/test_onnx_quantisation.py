"""Pages for calibration of int8."""

from pathlib import Path

import pytest
import torch

from shards.open import open_index
from tests.support.models import write_run
from vaetrain.config.experiment import load_experiment
from vaetrain.inference.onnx_graph import page_inputs
from vaetrain.inference.onnx_quantisation import CalibrationPages, split_pages
from vaetrain.inference.trained_model import TrainedModel

EXPERIMENT = load_experiment(
    None, ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shards with both splits, and a run with a random model."""
    folder = tmp_path_factory.mktemp("quantisation")
    write_run(folder, EXPERIMENT, pages=30)
    return folder


def test_calibration_and_measured_pages_are_different_splits(folder):
    trained = TrainedModel(folder / "run")
    index = open_index(folder / "shards")
    for split, batches in zip(
        ("train", "val"), split_pages(trained, folder / "shards"), strict=True
    ):
        ids = torch.cat([batch.ids for batch in batches]).tolist()
        assert sorted(ids) == list(index.ids(split))


def test_calibration_reads_every_batch_once_without_noise(folder):
    trained = TrainedModel(folder / "run")
    batches, _ = split_pages(trained, folder / "shards")
    pages = CalibrationPages(trained.model, batches)
    for batch in batches:
        inputs = pages.get_next()
        assert inputs.keys() == page_inputs(trained.model, batch).keys()
        assert torch.equal(torch.from_numpy(inputs["images"]), batch.images())
        assert not inputs["eps"].any()
    assert pages.get_next() is None
