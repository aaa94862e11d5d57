"""The batch-size study's choice of setups, and of micro batches that fit in memory."""

from __future__ import annotations

import pytest
import torch

from benchmarks.support.batch_size import study
from benchmarks.support.batch_size.setups import PLAIN, Setup
from benchmarks.support.batch_size.study import BatchSizeStudy, Plan
from shards.errors import UserError
from vaetrain.config.experiment import load_experiment

CPU = torch.device("cpu")


@pytest.fixture
def small() -> BatchSizeStudy:
    """Return a study without shards, whose peak is 1 GiB a page, halved by checkpointing."""
    made = BatchSizeStudy.__new__(BatchSizeStudy)
    made.plan = Plan(micros=(1, 2), batches=(2, 4), options=(PLAIN, "checkpointing"), memory=(8,))
    made.device, made.pages, made.own = CPU, 4, Setup(2, 1)
    halved = {PLAIN: 1, "checkpointing": 2}
    made.peak = lambda micro, option, device: micro * study.GIB // halved[option]
    return made


def test_setups_are_micro_batches_global_batches_and_options_each_once(small):
    assert small.setups == [
        *(Setup(1, 4), Setup(2, 2)),  # one global batch, of four pages
        *(small.at_batch(2), small.at_batch(4)),
        Setup(2, 1, "checkpointing"),
    ]
    assert small.at_batch(2) == small.own


def test_largest_micro_batch_on_cuda_by_option(small):
    assert small.measure_fits() == [
        {"option": PLAIN, "gib": 8, "micro": 8},
        {"option": "checkpointing", "gib": 8, "micro": 16},
    ]


def test_a_setup_fits_if_its_peak_is_below_the_memory_of_the_device(small, monkeypatch):
    monkeypatch.setattr(study, "available", lambda device: 3 * study.GIB)
    assert small.fits(Setup(2, 1))
    assert not small.fits(Setup(3, 1))
    assert small.fits(Setup(5, 1, "checkpointing"))


def test_batches_without_a_small_common_multiple_are_refused(monkeypatch):
    monkeypatch.setattr(study, "start_engine", lambda *_: None)
    monkeypatch.setattr(study, "TrainingData", lambda *_, **__: None)
    experiment = load_experiment(None, ["data.shards=elsewhere"])
    with pytest.raises(UserError, match=r"--micros, --batches: .* pages, more than 4096"):
        BatchSizeStudy(experiment, Plan(micros=(1, 101, 103)), CPU, 0)
