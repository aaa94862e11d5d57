"""Shares of a planned checkpoint: together they are the model, and those of DDP are equal."""

from __future__ import annotations

import pytest

from benchmarks.support.simulation import checkpoint_plan
from vaetrain.model.registry import SIZES

RANKS = 16


@pytest.fixture(scope="module")
def shares():
    model = checkpoint_plan.large_model(SIZES["tiny"])
    engines = checkpoint_plan.engines(model, RANKS, 4)
    found = {name: checkpoint_plan.shares(engine).bytes for name, engine in engines.items()}
    return found, sum(parameter.numel() for parameter in model.parameters())


def test_every_element_is_written_once(shares):
    found, parameters = shares
    for name, written in found.items():
        assert written.shape == (RANKS,)
        assert written.sum() == 16 * parameters, name


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "fsdp2, split over 4 ranks"])
def test_shares_are_nearly_equal(shares, name):
    written = shares[0][name]
    assert written.max() < 1.02 * written.mean()
