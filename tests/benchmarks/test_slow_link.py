"""A quick run of the benchmark of a slow link."""

import pytest

from benchmarks.slow_link import CASES
from benchmarks.support.machines.namespaces import NoNamespaces, two_machines
from tests.benchmarks.quick_run import names_of, quick_run


@pytest.mark.slow
def test_quick_run_measures_that_latency_costs_time(tmp_path):
    try:
        with two_machines():
            pass
    except NoNamespaces as error:
        pytest.skip(str(error))
    record, _ = quick_run("slow_link", tmp_path, "--engines", "ddp")
    assert names_of(record, "time of a step") == {f"ddp, {case}" for case in CASES}
    (ratio,) = [e for e in record["comparisons"] if e["name"] == "ddp, 20 ms"]
    assert ratio["median"] > 1.0
