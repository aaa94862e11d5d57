"""A quick run of the simulated orders."""

from __future__ import annotations

import pytest

from tests.benchmarks.quick_run import quick_run


@pytest.mark.slow
def test_quick_run_compares_bytes_and_work_of_both_orders(tmp_path):
    record, _ = quick_run("sample_order", tmp_path)
    for ranks in (2, 8):
        group = f"64 shards, 128 pages a step, {ranks} ranks"
        medians = {e["name"]: e["median"] for e in record["results"] if e["group"] == group}
        assert medians["read, 1 partition"] == ranks
        assert 1 < medians["read, 32 partitions"] < 1.5
        assert medians["work, 32 partitions"] < 1.1
        assert medians["padding, 32 partitions"] < 10
