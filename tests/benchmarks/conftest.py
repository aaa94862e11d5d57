"""Pages that several tests of the benchmarks read; each directory is written once a session."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import input_pipeline
from benchmarks.support.other_trainers.input_pipelines import PageFiles
from benchmarks.support.other_trainers.peer import Task
from benchmarks.support.sample_pages import SAMPLE
from shards.build import build
from shards.building.options import BuildOptions
from shards.format.png import encode_png
from shards.open import open_index
from shards.reading.height_ladder import height_ladder
from vaetrain.config.command import experiment_path
from vaetrain.config.experiment import load_experiment

HEIGHTS = np.array([20, 500, 60, 512, 33, 250, 40, 480] * 2)


@pytest.fixture(scope="session")
def stored(tmp_path_factory) -> input_pipeline.Stored:
    """Return 40 pages of the sample, 128 px wide, stored for all input pipelines."""
    folder = tmp_path_factory.mktemp("stored")
    build([SAMPLE], folder / "boxes", BuildOptions(workers=1, count=60))
    return input_pipeline.store(open_index(folder / "boxes"), 128, folder, 40)


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> Task:
    """Return 16 random pages of `HEIGHTS` and the default experiment, in batches of four."""
    folder = tmp_path_factory.mktemp("task")
    generator, files = np.random.default_rng(0), []
    for number, height in enumerate(HEIGHTS):
        files.append(folder / f"{number}.png")
        files[-1].write_bytes(encode_png(generator.integers(0, 256, (height, 128), dtype=np.uint8)))
    experiment = load_experiment(experiment_path("default"), ["model.start=random"])
    pages = PageFiles(files, 4, height_ladder(512, 16))
    return Task(pages, HEIGHTS, experiment, torch.device("cpu"), 0, folder / "peers", 0)
