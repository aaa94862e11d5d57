"""A quick run of the heartbeat's benchmark."""

from __future__ import annotations

import pytest

from tests.benchmarks.quick_run import quick_run


@pytest.mark.slow
def test_quick_run_reports_the_dead_rank_in_time(tmp_path):
    record, _ = quick_run("heartbeat", tmp_path)
    medians = {entry["name"]: entry["median"] for entry in record["results"]}
    timeout = record["settings"]["timeout"]
    assert medians["16 ranks, they wait: named by the last after"] < timeout + 3
    assert medians["16 ranks, their collectives fail: named by the last after"] < timeout
