"""Regressions between two records: medians that are worse by more than their noise."""

from __future__ import annotations

import copy
import functools
import json

import pytest

from benchmarks import compare
from benchmarks.support import report
from tests.support.commands import run_module


@pytest.fixture
def record() -> dict:
    steady = [99.0, 100.0, 101.0, 100.0, 100.0]
    results = [
        report.result("speed", "ours", "images/s", steady),
        report.result("speed", "peer", "images/s", [50.0, 60.0, 40.0, 55.0, 45.0]),
        report.result("memory", "ours", "MB", [10.0, 10.1, 9.9, 10.0, 10.0], better="lower"),
        report.result("share", "forward", "%", steady, better="neither"),
    ]
    comparisons = [report.compare(results, "speed", "ours", "peer", None)]
    return report.record(
        "speed",
        quick=False,
        settings={"seed": 0, "rounds": 5, "warmup": 1, "device": "cpu"},
        packages=[],
        results=results,
        comparisons=comparisons,
    )


def worse(old: dict, new: dict) -> list[str]:
    changes, gone = compare.changes(old, new)
    return [change.name for change in changes if change.is_worse] + gone


def scaled(record: dict, position: int, factor: float, kind: str = "results") -> dict:
    new = copy.deepcopy(record)
    entry = new[kind][position]
    for key in ("median", "q1", "q3"):
        entry[key] *= factor
    return new


def test_a_record_is_no_worse_than_itself(record):
    assert worse(record, record) == []


@pytest.mark.parametrize(
    ("position", "factor", "names"),
    [
        (0, 0.9, ["speed: ours"]),  # slower by more than 1%
        (0, 1.1, []),
        (1, 0.9, []),  # as much slower, within the noise of its rounds
        (1, 0.5, ["speed: peer"]),
        (2, 1.1, ["memory: ours"]),  # memory: lower is better
        (2, 0.9, []),
        (3, 0.5, []),  # a share: neither better nor worse
    ],
)
def test_medians_worse_by_more_than_the_noise_are_flagged(record, position, factor, names):
    assert worse(record, scaled(record, position, factor)) == names


def test_noise_is_the_sum_of_both_and_decreases_with_rounds():
    narrow, wide = {"q1": 9.0, "q3": 11.0}, {"q1": 8.0, "q3": 12.0}
    assert compare.noise(narrow, wide, (4, 16)) == pytest.approx(1.57 * (2 / 2 + 4 / 4))


def test_ratios_are_compared(record):
    assert worse(record, scaled(record, 0, 0.3, "comparisons")) == ["speed: ours / peer"]


def test_cases_that_are_no_longer_measured_are_flagged(record):
    new = copy.deepcopy(record)
    del new["results"][1], new["comparisons"][0]
    assert worse(record, new) == ["speed: peer", "speed: ours / peer"]


@pytest.mark.parametrize("difference", ["machine", "threads", "device", "quick"])
def test_only_ratios_are_compared_between_different_machines_or_settings(record, difference):
    new = scaled(record, 0, 0.1)
    if difference == "machine":
        new["environment"]["machine"]["cpu"] = "another"
    elif difference == "threads":
        new["environment"]["threads"] += 1
    elif difference == "device":
        new["settings"]["device"] = "cuda"
    else:
        new["quick"] = True
    assert worse(record, new) == []
    assert worse(record, scaled(new, 0, 0.3, "comparisons")) == ["speed: ours / peer"]


run = functools.partial(run_module, "benchmarks.compare")


def test_exit_status_is_1_for_a_regression_and_2_for_a_wrong_file(record, tmp_path):
    for name, content in (("old", record), ("new", scaled(record, 0, 0.5)), ("other", {"a": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "speed.json").write_text(json.dumps(content))
    same = run(tmp_path / "old", tmp_path / "old")
    assert (same.returncode, same.stdout.splitlines()[-1]) == (0, "no worse")
    slower = run(tmp_path / "old", tmp_path / "new")
    assert slower.returncode == 1
    assert "WORSE   speed: ours: 100 -> 50 (-50.0%" in slower.stdout
    refused = run(tmp_path / "old" / "speed.json", tmp_path / "other" / "speed.json")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
