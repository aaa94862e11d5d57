"""Scaling over ranks: prediction from single ranks, projection, pinning, and a quick run."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterable

import pytest

from benchmarks import scaling
from benchmarks.scaling import BESIDE, MEASURED, ONE, TWICE, ScalingMeasurements, on_core
from benchmarks.support.scaling_model import WeightSizes, step_collectives
from tests.benchmarks.quick_run import names_of, quick_run
from vaetrain.engines.config import EngineConfig
from vaetrain.engines.spec import ENGINES

LINK = {"sizes": [1000, 10**8], "seconds": [1e-3, 0.1 + 1e-3], "hidden": 0.0}
SIZES = scaling.Sizes(("ddp", "zero3"), 2, 0, 2, 1, (), 8)


def test_a_step_of_two_ranks_is_the_slower_one_plus_the_all_reduce():
    computing, size = [0.2, 0.2, 0.4, 0.4], 10**7
    # The slower of two takes 0.4 in three of four combinations.
    slower = 0.25 * 0.2 + 0.75 * 0.4
    sending = 0.01 + 2 * 1e-3
    assert scaling.predict(computing, LINK, size, "ddp") == pytest.approx(slower + sending, 1e-3)
    more = scaling.predict(computing, LINK, size, "zero1")
    assert more == pytest.approx(slower + 0.015 + 2 * 1e-3, 1e-3)
    hidden = scaling.predict(computing, LINK | {"hidden": 1.0}, size, "ddp")
    assert hidden == pytest.approx(slower, 1e-3)


def measurements(ddp: float) -> ScalingMeasurements:
    steps = {ONE: [[0.2] * 2] * 2, BESIDE: [[0.25] * 4] * 2}
    rates = {ONE: [40.0] * 2, BESIDE: [32.0] * 2, TWICE: [44.0] * 2, "ddp, 2 ranks": [ddp] * 2}
    rates |= {"zero3, 2 ranks": [50.0] * 2}
    return ScalingMeasurements(steps, rates, [LINK] * 2, threads_of(rates, of_two_ranks=2))


def threads_of(names: Iterable[str], of_two_ranks: int) -> dict[str, int]:
    return {name: of_two_ranks if "2 ranks" in name else 1 for name in names}


@pytest.mark.parametrize(("ddp", "met"), [(61.0, True), (50.0, False), (75.0, False)])
def test_a_prediction_is_met_within_a_tenth(ddp, met):
    results, comparisons = scaling.measured_entries(measurements(ddp), SIZES, 10**7, 8)
    predicted = next(e for e in results if e["name"] == "ddp, 2 ranks, predicted")
    assert predicted["median"] == pytest.approx(16 / (0.25 + 0.012), 1e-3)
    (comparison,) = [entry for entry in comparisons if entry["target"] is not None]
    assert comparison["against"] == "ddp, 2 ranks"
    assert comparison["met"] is met
    assert all(entry["group"] == MEASURED for entry in results)


@pytest.mark.parametrize(("of_two_ranks", "met"), [(2, True), (4, None)])
def test_a_prediction_for_other_threads_is_not_judged(of_two_ranks, met):
    measured = measurements(61.0)
    threads = threads_of(measured.rates, of_two_ranks)
    results, comparisons = scaling.measured_entries(
        dataclasses.replace(measured, threads=threads), SIZES, 10**7, 8
    )
    threads |= {f"{engine}, 2 ranks, predicted": 2 for engine in SIZES.engines}
    assert {entry["name"]: entry["threads"] for entry in results} == threads
    (comparison,) = [entry for entry in comparisons if entry["target"] is not None]
    assert comparison["met"] is met


def test_projected_efficiency_decreases_with_ranks_and_slower_links():
    entries = scaling.project([0.1], 10**9, 8)
    by_group: dict[str, list[float]] = {}
    for entry in entries:
        by_group.setdefault(entry["group"], []).append(entry["notes"]["of N times one"])
    assert len(by_group) == 3
    for shares in by_group.values():
        assert shares[0] == 1
        assert shares == sorted(shares, reverse=True)
    lowest = [shares[-1] for shares in by_group.values()]
    assert lowest == sorted(lowest, reverse=True)


@pytest.mark.parametrize(
    ("engine", "gradients"), [("ddp", 2000), ("zero2", 3 * 2000), ("fsdp2", 3 * 2000)]
)
def test_gradients_in_bf16_are_half_as_many_bytes(engine, gradients):
    config, sizes = EngineConfig(reduce_dtype="bf16"), WeightSizes(1000, 600, 50)
    reduction = step_collectives(ENGINES[engine], sizes, 3, config)[0]
    assert (reduction.tensors, reduction.bytes) == ("gradients", gradients)


def test_started_processes_are_pinned_to_the_core():
    before = os.sched_getaffinity(0)
    core = max(before)
    with on_core(core):
        program = "import os; print(os.sched_getaffinity(0))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == str({core})
    assert os.sched_getaffinity(0) == before


@pytest.mark.slow
def test_quick_run_predicts_ddp_and_opens_indexes(tmp_path):
    record, _ = quick_run("scaling", tmp_path)
    names = {ONE, BESIDE, TWICE, "ddp, 2 ranks", "ddp, 2 ranks, predicted"}
    assert names_of(record, MEASURED) == names
    assert [each["within"] for each in record["comparisons"] if "within" in each] == [0.1]
    measured = [each for each in record["results"] if each["group"] == MEASURED]
    assert all(each["threads"] >= 1 for each in measured)
    first_batch = [each for each in record["results"] if "first batch" in each["group"]]
    assert [each["name"] for each in first_batch] == ["100,000 samples", "1,000,000 samples"]
