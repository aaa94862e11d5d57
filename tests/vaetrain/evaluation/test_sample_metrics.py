"""Comparisons with training pages order real pages, blurred ones, copies and noise rightly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shards.build import build
from shards.building.options import BuildOptions
from shards.reading.batch import Batch
from shards.reading.selection import Selection
from tests.support.engines import FakeEngine
from tests.support.models import perturbed_model
from tests.support.paths import SAMPLE
from tests.support.ranks import ThreadRanks, run_ranks
from vaetrain.config.experiment import load_experiment
from vaetrain.data.config import DataConfig
from vaetrain.data.loading import PageReader
from vaetrain.engines.base import Engine
from vaetrain.evaluation.fid import RandomFeatures
from vaetrain.evaluation.page_measurer import MeasuredPages, PageMeasurer
from vaetrain.evaluation.sample_metrics import SampleMetrics

CONFIG = DataConfig(width=64, max_height=128, workers=0)
COUNT = 130  # pages of each set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    build([SAMPLE], folder, BuildOptions(count=300, workers=1))
    return folder


def halves(folder, engine: Engine) -> tuple[PageReader, Selection, Selection]:
    """Return the shards and two disjoint sets of real pages of the same templates."""
    data = PageReader(folder, CONFIG, engine, 16)
    pages = data.select("all")
    return data, *(part_of(pages, first, 2) for first in (0, 1))


def part_of(pages: Selection, first: int, step: int) -> Selection:
    ids = np.arange(len(pages))[first::step]
    starts = np.searchsorted(ids, pages.starts)
    return dataclasses.replace(pages, ids=ids, starts=starts)


def blurred(batch: Batch) -> Tensor:
    """Return the pages, each pixel averaged with its neighbours at weights 1/4, 1/2, 1/4."""
    images = F.pad(batch.images(), (1, 1, 1, 1), mode="replicate")
    across = (images[..., :-2] + 2 * images[..., 1:-1] + images[..., 2:]) / 4
    return (across[:, :, :-2] + 2 * across[:, :, 1:-1] + across[:, :, 2:]) / 4


def noise(batch: Batch) -> Tensor:
    generator = torch.Generator().manual_seed(int(batch.ids[0]))
    return torch.rand(len(batch), 1, *batch.size, generator=generator) / 4


@pytest.fixture(scope="module")
def found(folder) -> dict[str, dict[str, float]]:
    """Return the metrics of sets of pages, compared with one half of the real pages."""
    data, known, other = halves(folder, FakeEngine())
    measurer = PageMeasurer(data.engine, 128, 64, [RandomFeatures()])
    comparison = SampleMetrics(measurer, (data, known), (data, other), samples=COUNT)
    pages = other.spaced(COUNT)
    sets: dict[str, MeasuredPages] = {
        "real": measurer.real_pages(data, pages),
        "blurred": measurer.real_pages(data, pages, blurred),
        "noise": measurer.real_pages(data, pages, noise),
        "copies": comparison.training,
        "copies of few": rows_of(comparison.training, torch.arange(COUNT) % 10),
    }
    values = {name: comparison.compare(measured) for name, measured in sets.items()}
    return values | {"unseen": comparison.real}


def rows_of(pages: MeasuredPages, rows: Tensor) -> MeasuredPages:
    parts = {name: value[rows] for name, value in vars(pages).items() if name != "networks"}
    return MeasuredPages(**parts, networks={k: v[rows] for k, v in pages.networks.items()})


def test_the_two_sample_test_cannot_tell_real_pages_apart_but_blur(found):
    accuracy = {
        name: values["two_sample_accuracy"] for name, values in found.items() if name != "unseen"
    }
    assert 0.4 < accuracy["real"] < 0.6
    assert accuracy["blurred"] > 0.85
    assert accuracy["noise"] > 0.99


def test_precision_and_coverage_fall_from_real_pages_to_noise(found):
    for name in ("precision", "recall", "density", "coverage"):
        assert found["real"][name] > 0.7
        assert found["noise"][name] < 0.02
        assert found["copies"][name] == pytest.approx(1, abs=0.05)
    for name in ("density", "recall"):
        assert found["real"][name] > found["blurred"][name] > found["noise"][name]


def test_copies_of_few_pages_are_precise_but_cover_little(found):
    few, real = found["copies of few"], found["real"]
    assert few["precision"] == 1
    assert few["coverage"] < 0.5 < real["coverage"]
    assert few["recall"] < 0.1 * real["recall"]


def test_the_nearest_training_page_shows_copies(found):
    assert found["copies"]["nearest_train"] == 0
    assert 0 < found["real"]["nearest_train"] < 0.05
    assert found["noise"]["nearest_train"] > found["real"]["nearest_train"]


def test_distances_of_features_and_distributions_are_0_for_copies_and_large_for_noise(found):
    names = ("fid_random", "boxes_distance", "depth_distance", "box_size_distance")
    for name in names:
        assert found["copies"][name] == pytest.approx(0, abs=1e-9)
        assert found["noise"][name] > 3 * found["real"][name], name
    assert found["noise"]["kid_random"] > 10 * abs(found["real"]["kid_random"])


def test_flat_share_falls_with_blur(found):
    flat = {name: found[name]["flat_share"] for name in ("real", "blurred", "noise")}
    assert flat["real"] > 0.6
    assert flat["real"] > 1.1 * flat["blurred"]
    assert flat["noise"] < 0.01


def test_unseen_real_pages_have_values_beside_the_samples(found):
    assert found["unseen"]["flat_share"] == found["real"]["flat_share"]
    for name in ("two_sample_accuracy", "precision", "coverage", "nearest_train", "fid_random"):
        assert found["unseen"][f"real_{name}"] == found["real"][name]


def test_metrics_of_samples_are_equal_to_the_bit_for_any_number_of_ranks(folder):
    experiment = load_experiment(None, ["data.width=64", "data.max_height=128"])
    model = perturbed_model(experiment.model, 64, 128, 0.05).eval()

    def run(rank: ThreadRanks) -> dict[str, float]:
        data, known, other = halves(folder, rank)
        measurer = PageMeasurer(rank, 128, 64, [RandomFeatures()])
        sets = (data, known.spaced(48)), (data, other.spaced(60))
        return SampleMetrics(measurer, *sets, samples=40).metrics(model, None, 128)

    one, (two, nothing) = run_ranks(1, run)[0], run_ranks(2, run)
    assert nothing == {}
    assert two == one
    assert {name.partition("_")[0] for name in one} == {"sample", "real", "flat"}
    assert one["sample_height_distance"] > one["real_height_distance"]


def test_too_few_pages_are_not_compared(folder):
    data, known, other = halves(folder, FakeEngine())
    measurer = PageMeasurer(data.engine, 128, 64)
    comparison = SampleMetrics(measurer, (data, known.spaced(19)), (data, other), samples=40)
    assert comparison.metrics(None, None, 128) == {}
    assert "19 pages are too few" in comparison.too_few
