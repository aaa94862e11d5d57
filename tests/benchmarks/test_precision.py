"""Models of lower precision are close to fp32, and their quality metrics are correct."""

import pytest
import torch

from benchmarks import precision
from shards.reading.batch import Batch
from tests.benchmarks.quick_run import quick_run
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.inference.trained_model import TrainedModel


@pytest.fixture(scope="module")
def pages(small_run) -> tuple[TrainedModel, list[Batch]]:
    """Return the trained model and all pages in batches."""
    trained = TrainedModel(small_run / "run")
    shards = trained.open_shards(small_run / "shards")
    return trained, list(shards.pages(shards.select("all")))


def test_lower_precision_is_smaller_and_close_to_fp32(pages):
    trained, batches = pages
    model = trained.model
    exact = precision.in_pytorch(model)
    mu, logvar, page = exact.run(batches[0])
    posterior = model.posterior(batches[0].images(), batches[0].heights)
    assert torch.equal(mu, posterior.mu)
    for variant, max_size, max_error in (
        (precision.in_pytorch(model, torch.bfloat16), 0.55, 0.02),
        (precision.in_pytorch(precision.with_int8_layers(model)), 0.8, 0.02),
    ):
        assert variant.bytes < max_size * exact.bytes
        for output, expected in zip(variant.run(batches[0]), (mu, logvar, page), strict=True):
            assert 0 < (output - expected).abs().mean() < max_error * expected.abs().max()
    assert model.skip_gate.dtype == torch.float32  # the model itself is unchanged


def test_quality_of_a_perfect_and_of_a_blank_model(pages):
    _, batches = pages
    names = PageLabels(torch.arange(32) // 4, torch.arange(32))

    def perfect(batch: Batch):
        return batch.ids[:, None].float(), torch.zeros(len(batch), 1), batch.images()

    ids = torch.cat([batch.ids for batch in batches])
    metrics = precision.quality(
        perfect, batches, PageLabels(names.labels[ids], names.templates[ids])
    )
    assert metrics["SSIM"] == 1
    # Labels are shared by four pages: three of the ten nearest have the same label.
    assert metrics["precision@10 (raw)"] == metrics["precision@10 (deviations)"] == 0.3

    def blank(batch: Batch):
        return (*perfect(batch)[:2], torch.zeros_like(batch.images()))

    metrics = precision.quality(blank, batches, None)
    assert 0 < metrics["SSIM"] < 0.9
    assert list(metrics) == ["SSIM"]


@pytest.mark.slow
def test_quick_run_has_the_size_of_every_variant(small_run, tmp_path):
    shards = str(small_run / "shards")
    arguments = [str(small_run / "run"), "--shards", shards, "--calibrate", shards]
    record, _ = quick_run("precision", tmp_path, *arguments)
    assert len(record["results"]) == 5
    assert all(entry["notes"]["MB"] > 0 for entry in record["results"])
