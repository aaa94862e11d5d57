"""A quick run of the simulation, and the checks that it makes."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import check_epoch
from tests.benchmarks.quick_run import quick_run


@pytest.mark.slow
def test_quick_run_loses_no_sample_and_names_the_killed_rank(tmp_path):
    record, output = quick_run("simulation", tmp_path)
    medians = {entry["name"]: entry["median"] for entry in record["results"]}
    assert medians["16 ranks, last"] < 2 * record["settings"]["timeout"]
    assert "of 381 samples were trained on once" in output


@pytest.mark.parametrize("ids", [[0, 1, 1, 2], [0, 1, 3, 2, 3, 3], [0, 1, 2], [0, 1, 2, 3, 4]])
def test_lost_and_repeated_samples_are_found(ids):
    with pytest.raises(RuntimeError, match="lost or repeated"):
        check_epoch([np.array(ids[:2]), np.array(ids[2:])], 4)


def test_samples_of_the_next_epoch_may_fill_the_last_step():
    check_epoch([np.array([3, 1]), np.array([0, 2, 3])], 4)
