"""Two records of a benchmark side by side: what is worse by more than its noise is flagged."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.support import report


@pytest.fixture
def told() -> dict:
    steady = [99.0, 100.0, 101.0, 100.0, 100.0]
    results = [
        report.result("speed", "ours", "images/s", steady),
        report.result("speed", "theirs", "images/s", [50.0, 60.0, 40.0, 55.0, 45.0]),
        report.result("memory", "ours", "MB", [10.0, 10.1, 9.9, 10.0, 10.0], better="lower"),
        report.result("share", "forward", "%", steady, better="neither"),
    ]
    comparisons = [report.compare(results, "speed", "ours", "theirs", None)]
    return report.record(
        "speed",
        quick=False,
        settings={"seed": 0, "rounds": 5, "warmup": 1, "device": "cpu"},
        packages=[],
        results=results,
        comparisons=comparisons,
    )


def worse(old: dict, new: dict) -> list[str]:
    found, gone = compare.changes(old, new)
    return [change.name for change in found if change.is_worse] + gone


def scaled(told: dict, place: int, factor: float, kind: str = "results") -> dict:
    new = copy.deepcopy(told)
    entry = new[kind][place]
    for key in ("median", "q1", "q3"):
        entry[key] *= factor
    return new


def test_a_record_is_no_worse_than_itself(told):
    assert worse(told, told) == []


@pytest.mark.parametrize(
    ("place", "factor", "names"),
    [
        (0, 0.9, ["speed: ours"]),  # slower by more than 1%
        (0, 1.1, []),
        (1, 0.9, []),  # as much slower, within what its rounds differ by
        (1, 0.5, ["speed: theirs"]),
        (2, 1.1, ["memory: ours"]),  # more of what had better be less
        (2, 0.9, []),
        (3, 0.5, []),  # neither better nor worse
    ],
)
def test_what_is_worse_by_more_than_its_noise_is_flagged(told, place, factor, names):
    assert worse(told, scaled(told, place, factor)) == names


def test_noise_is_that_of_both_and_falls_with_the_rounds():
    narrow, wide = {"q1": 9.0, "q3": 11.0}, {"q1": 8.0, "q3": 12.0}
    assert compare.noise(narrow, wide, (4, 16)) == pytest.approx(1.57 * (2 / 2 + 4 / 4))


def test_ratios_are_compared_too(told):
    assert worse(told, scaled(told, 0, 0.3, "comparisons")) == ["speed: ours / theirs"]


def test_what_is_no_longer_measured_is_flagged(told):
    new = copy.deepcopy(told)
    del new["results"][1], new["comparisons"][0]
    assert worse(told, new) == ["speed: theirs", "speed: ours / theirs"]


@pytest.mark.parametrize("where", ["machine", "threads", "device", "quick"])
def test_what_was_not_measured_alike_is_compared_by_ratios_alone(told, where):
    new = scaled(told, 0, 0.1)
    if where == "machine":
        new["environment"]["machine"]["cpu"] = "another"
    elif where == "threads":
        new["environment"]["threads"] += 1
    elif where == "device":
        new["settings"]["device"] = "cuda"
    else:
        new["quick"] = True
    assert worse(told, new) == []
    assert worse(told, scaled(new, 0, 0.3, "comparisons")) == ["speed: ours / theirs"]


def run(*arguments: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_exit_status_tells(told, tmp_path):
    for name, record in (("old", told), ("new", scaled(told, 0, 0.5)), ("other", {"a": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "speed.json").write_text(json.dumps(record))
    same = run(tmp_path / "old", tmp_path / "old")
    assert (same.returncode, same.stdout.splitlines()[-1]) == (0, "no worse")
    slower = run(tmp_path / "old", tmp_path / "new")
    assert slower.returncode == 1
    assert "WORSE   speed: ours: 100 -> 50 (-50.0%" in slower.stdout
    broken = run(tmp_path / "old" / "speed.json", tmp_path / "other" / "speed.json")
    assert broken.returncode == 2
    assert broken.stderr.count("\n") == 1
