"""Scaling over ranks: the prediction from single ranks, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import scaling
from benchmarks.scaling import BESIDE, MEASURED, ONE, TWICE, Findings, on_core
from benchmarks.support import report

LINK = {"sizes": [1000, 10**8], "seconds": [1e-3, 0.1 + 1e-3], "hidden": 0.0}
SIZES = scaling.Sizes(("ddp", "zero3"), 2, 0, 2, 1, (), 8)


def test_a_step_of_two_is_the_slower_ones_and_the_gradients_way():
    computing, size = [0.2, 0.2, 0.4, 0.4], 10**7
    # The slower of two is at 0.4 three times out of four.
    slower = 0.25 * 0.2 + 0.75 * 0.4
    sending = 0.01 + 2 * 1e-3
    assert scaling.predict(computing, LINK, size, "ddp") == pytest.approx(slower + sending, 1e-3)
    more = scaling.predict(computing, LINK, size, "zero3")
    assert more == pytest.approx(slower + 0.015 + 2 * 1e-3, 1e-3)
    hidden = scaling.predict(computing, LINK | {"hidden": 1.0}, size, "ddp")
    assert hidden == pytest.approx(slower, 1e-3)


def found(ddp: float) -> Findings:
    steps = {ONE: [[0.2] * 2] * 2, BESIDE: [[0.25] * 4] * 2}
    rates = {ONE: [40.0] * 2, BESIDE: [32.0] * 2, TWICE: [44.0] * 2, "ddp, 2 ranks": [ddp] * 2}
    return Findings(steps, rates | {"zero3, 2 ranks": [50.0] * 2}, [LINK] * 2)


@pytest.mark.parametrize(("ddp", "met"), [(61.0, True), (50.0, False), (75.0, False)])
def test_a_prediction_is_met_within_a_tenth_either_way(ddp, met):
    results, comparisons = scaling.told(found(ddp), SIZES, 10**7, 8)
    guess = next(e for e in results if e["name"] == "ddp, 2 ranks, predicted")
    assert guess["median"] == pytest.approx(16 / (0.25 + 0.012), 1e-3)
    (verdict,) = [entry for entry in comparisons if entry["target"] is not None]
    assert verdict["against"] == "ddp, 2 ranks"
    assert verdict["met"] is met
    assert all(entry["group"] == MEASURED for entry in results)


def test_projections_start_at_one_device_and_lose_on_slower_links():
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


def test_what_is_started_keeps_to_its_core():
    before = os.sched_getaffinity(0)
    core = max(before)
    with on_core(core):
        program = "import os; print(os.sched_getaffinity(0))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == str({core})
    assert os.sched_getaffinity(0) == before


@pytest.mark.slow
def test_the_quick_run_leaves_a_record_and_a_picture(tmp_path):
    command = [sys.executable, "-m", "benchmarks.scaling", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    told = json.loads((tmp_path / "scaling.json").read_text())
    report.check(told)
    assert report.table(told) in done.stdout
    assert told["quick"] is True
    names = {entry["name"] for entry in told["results"] if entry["group"] == MEASURED}
    assert names == {ONE, BESIDE, TWICE, "ddp, 2 ranks", "ddp, 2 ranks, predicted"}
    assert [e["within"] for e in told["comparisons"] if "within" in e] == [0.1]
    seconds = [e["median"] for e in told["results"] if "first batch" in e["group"]]
    assert len(seconds) == 2
    picture = np.asarray(Image.open(tmp_path / "scaling.png").convert("L"))
    assert picture.std() > 20
