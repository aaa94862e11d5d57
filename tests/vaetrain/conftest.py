"""A run with a random model and shards of the sample's pages, for inference and commands."""

import gzip
import json
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.open import open_index
from tests.support.models import perturbed_model
from tests.vaetrain.pages_one_by_one import MAX_HEIGHT, SAMPLE_FILE, WIDTH
from vaetrain.artifacts.final_model import write_final
from vaetrain.config.experiment import load_experiment

EXPERIMENT = load_experiment(
    None,
    [
        f"data.width={WIDTH}",
        f"data.max_height={MAX_HEIGHT}",
        "model.latent_dim=8",
        "data.workers=0",
    ],
)


@pytest.fixture(scope="session")
def layouts() -> list[dict]:
    """The layouts that the shards of `run_folder` are built from."""
    with gzip.open(SAMPLE_FILE, "rt") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(24), strict=False)]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, layouts) -> Path:
    """`shards` with 24 pages in several shards, and `run` with an untrained model."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in layouts))
    options = BuildOptions(workers=1, shard_mb=0.02, keep_duplicates=True)
    build([folder / "pages.jsonl"], folder / "shards", options)
    assert len(open_index(folder / "shards").shards) > 2
    model = perturbed_model(EXPERIMENT.model, WIDTH, MAX_HEIGHT, 0.05)
    write_final(folder / "run" / "final", model, EXPERIMENT, {}, {})
    return folder
