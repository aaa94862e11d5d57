"""Fewer bits are the same model, nearly, and what is measured of it is what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import precision
from benchmarks.support import report
from shards.reading.batch import Batch
from tests.support.models import write_run
from vaetrain.config.experiment import load_experiment
from vaetrain.evaluation.retrieval import PageLabels
from vaetrain.inference.trained_model import TrainedModel

REPO = Path(__file__).resolve().parents[2]
EXPERIMENT = load_experiment(
    None, ["data.width=64", "data.max_height=128", "model.latent_dim=8", "data.workers=0"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shards, and a run whose weights are no special values."""
    folder = tmp_path_factory.mktemp("precision")
    write_run(folder, EXPERIMENT, pages=40, noise=0.02)
    return folder


@pytest.fixture(scope="module")
def pages(folder) -> tuple[TrainedModel, list[Batch]]:
    trained = TrainedModel(folder / "run")
    shards = trained.open_shards(folder / "shards")
    return trained, list(shards.pages(shards.select("all")))


def test_fewer_bits_are_nearly_the_same_model(pages):
    trained, batches = pages
    model = trained.model
    exact = precision.in_pytorch(model)
    mu, logvar, page = exact.run(batches[0])
    posterior = model.posterior(batches[0].images(), batches[0].heights)
    assert torch.equal(mu, posterior.mu)
    for other, share, far in (
        (precision.in_pytorch(model, torch.bfloat16), 0.55, 0.02),
        (precision.in_pytorch(precision.with_int8_layers(model)), 0.8, 0.02),
    ):
        assert other.bytes < share * exact.bytes
        for ours, theirs in zip(other.run(batches[0]), (mu, logvar, page), strict=True):
            assert 0 < (ours - theirs).abs().mean() < far * theirs.abs().max()
    assert model.skip_gate.dtype == torch.float32  # the model itself was left as it was


def test_quality_is_that_of_the_pages(pages):
    _, batches = pages
    names = PageLabels(torch.arange(40) // 4, torch.arange(40))

    def perfect(batch: Batch):
        return batch.ids[:, None].float(), torch.zeros(len(batch), 1), batch.images()

    ids = torch.cat([batch.ids for batch in batches])
    found = precision.quality(perfect, batches, PageLabels(names.labels[ids], names.templates[ids]))
    assert found["SSIM"] == 1
    # Of the ten nearest by number three are the others of a page's four.
    assert found["precision@10 (raw)"] == found["precision@10 (deviations)"] == 0.3

    def nothing(batch: Batch):
        return (*perfect(batch)[:2], torch.zeros_like(batch.images()))

    blank = precision.quality(nothing, batches, None)
    assert 0 < blank["SSIM"] < 0.9
    assert list(blank) == ["SSIM"]


@pytest.mark.slow
def test_the_quick_run_leaves_a_record(folder, tmp_path):
    shards = str(folder / "shards")
    command = [sys.executable, "-m", "benchmarks.precision", str(folder / "run"), "--quick"]
    command += ["--shards", shards, "--calibrate", shards, "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    told = json.loads((tmp_path / "precision.json").read_text())
    report.check(told)
    assert report.table(told) in done.stdout
    assert len(told["results"]) == 5
    assert all(entry["notes"]["MB"] > 0 for entry in told["results"])
