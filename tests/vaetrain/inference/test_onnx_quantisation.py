"""Pages for calibration of int8."""

import torch

from shards.open import open_index
from vaetrain.inference.onnx_graph import page_inputs
from vaetrain.inference.onnx_quantisation import CalibrationPages, split_pages
from vaetrain.inference.trained_model import TrainedModel


def test_calibration_and_measured_pages_are_different_splits(small_run):
    trained = TrainedModel(small_run / "run")
    index = open_index(small_run / "shards")
    for split, batches in zip(
        ("train", "val"), split_pages(trained, small_run / "shards"), strict=True
    ):
        ids = torch.cat([batch.ids for batch in batches]).tolist()
        assert sorted(ids) == list(index.ids(split))


def test_calibration_reads_every_batch_once_without_noise(small_run):
    trained = TrainedModel(small_run / "run")
    batches, _ = split_pages(trained, small_run / "shards")
    pages = CalibrationPages(trained.model, batches)
    for batch in batches:
        inputs = pages.get_next()
        assert inputs.keys() == page_inputs(trained.model, batch).keys()
        assert torch.equal(torch.from_numpy(inputs["images"]), batch.images())
        assert not inputs["eps"].any()
    assert pages.get_next() is None
