"""Records of benchmarks: the schema, ratios within rounds, and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.support import report
from tests.benchmarks.nested import with_value


@pytest.fixture
def record() -> dict:
    results = [
        report.result("disk", "ours, boxes", "pages/s", [30.0, 10.0, 20.0], {"KB a page": 2}),
        report.result("disk", "peer", "pages/s", [10.0, 5.0, 2.0]),
    ]
    return report.record(
        "speed",
        quick=True,
        settings={"seed": 0, "rounds": 3, "warmup": 1, "device": "cpu"},
        packages=["pillow", "no-such-package"],
        results=results,
        comparisons=[
            report.compare(results, "disk", "ours, boxes", "peer", 2.5),
            report.compare(results, "disk", "peer", "ours, boxes", 1.0),
        ],
        missing=[{"group": "disk", "name": "absent", "reason": "No module named 'absent'"}],
    )


def test_a_record_follows_the_schema_and_has_its_environment(record):
    report.check(record)
    environment = record["environment"]
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["versions"]["no-such-package"] is None
    assert environment["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("environment",), {}),
        (("results", 0, "median"), "fast"),
        (("results", 0, "median"), 0),
        (("results", 0, "rounds"), []),
        (("results", 0, "better"), "sideways"),
        (("results",), []),
        (("comparisons", 0, "met"), 1),
        (("settings",), {"rounds": 3}),
        (("extra",), 1),
        (("schema",), 2),
    ],
)
def test_other_schemas_are_refused_in_one_line(record, path, value):
    broken = with_value(record, path, value)
    with pytest.raises(ValueError, match=r"^\$") as error:
        report.check(broken)
    assert "\n" not in str(error.value)


def test_median_and_quartiles_are_of_the_rounds(record):
    entry = record["results"][0]
    assert (entry["q1"], entry["median"], entry["q3"]) == (15.0, 20.0, 25.0)


def test_ratios_are_within_rounds(record):
    # 30/10, 10/5, 20/2: their median is 3; the ratio of the medians is 4.
    won, lost = record["comparisons"]
    assert (won["median"], won["met"]) == (3.0, True)
    assert (lost["median"], lost["met"]) == (pytest.approx(1 / 3), False)


@pytest.mark.parametrize(("within", "met"), [(0.04, False), (0.06, True)])
@pytest.mark.parametrize("rate", [9.5, 10.5])
def test_a_target_may_be_equality_within_a_share(within, met, rate):
    results = [report.result("g", "a", "1/s", [rate]), report.result("g", "b", "1/s", [10.0])]
    entry = report.compare(results, "g", "a", "b", None, within=within)
    assert (entry["target"], entry["within"], entry["met"]) == (1.0, within, met)


def test_table_has_missed_targets_and_missing_cases(record):
    record["comparisons"] += [
        report.compare(record["results"], "disk", "ours, boxes", "peer", None, within=0.1)
    ]
    table = report.table(record)
    assert "target 1x within 10%: MISSED" in table
    assert "ours, boxes: 3.00x peer (2.50 - 6.50), target 2.5x: met" in table
    assert "target 1x: MISSED" in table
    assert "missing: No module named 'absent'" in table
    assert "2 KB a page" in table


def test_published_files_have_the_record_and_the_table(record, tmp_path, capsys):
    report.publish(record, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "speed.json").read_text()) == record
    assert report.table(record) in capsys.readouterr().out
    assert (tmp_path / "new" / "speed.png").stat().st_size > 0


def test_a_benchmark_may_draw_its_own_figure(record, tmp_path):
    report.publish(record, tmp_path, lambda record, path: path.write_text(record["benchmark"]))
    assert (tmp_path / "speed.png").read_text() == "speed"


@pytest.mark.parametrize(("threads", "met"), [((2, 2), True), ((2, None), True), ((2, 1), None)])
def test_sides_with_different_numbers_of_threads_are_not_judged(record, threads, met):
    """With one thread for each of two ranks against one thread, ranks would win by their cores."""
    for options in ({"target": 0.9}, {"target": None, "within": 10.0}):
        results = [
            report.result("rate", name, "images/s", [rate], threads=number)
            for name, rate, number in zip("ab", (40.0, 10.0), threads, strict=True)
        ]
        compared = report.compare(results, "rate", "a", "b", **options)
        assert compared["met"] is met
        record |= {"results": results, "comparisons": [compared]}
        report.check(record)
        printed = report.table(record)
        assert ("not judged: 2 threads against 1" in printed) is (met is None)
        assert (": met" in printed) is (met is True)


def test_the_table_says_how_many_threads_were_used(record):
    assert f"threads of this process: {record['environment']['threads']}\n" in report.table(record)
