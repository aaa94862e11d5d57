"""A quick run of the round trip of layouts."""

from __future__ import annotations

import pytest

from tests.benchmarks.quick_run import quick_run


@pytest.mark.slow
def test_quick_run_reports_recall_precision_and_l1(tmp_path):
    record, _ = quick_run("layouts", tmp_path, "--width", "128")
    values = {entry["name"]: entry["median"] for entry in record["results"]}
    assert 0.4 < values["recall"] <= 1
    assert 0.3 < values["precision"] <= 1
    assert values["L1, mean"] < 0.003
