"""The batch-size study's command: its arguments, its trainings in the record, and a quick run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.batch_size_study import training_entry
from benchmarks.support.batch_size import advice
from benchmarks.support.batch_size.time_to_target import Run
from tests.benchmarks.quick_run import quick_run
from tests.support.commands import run_module


def test_seconds_of_a_training_are_its_images_at_the_measured_speed():
    run = Run(16, "sqrt", 1e-3, [(100, 2.0), (200, 1.0)], Path())
    entry = training_entry(run, 1.5, {"median": 50.0})
    assert (entry["images"], entry["seconds"], entry["images_per_second"]) == (150, 3.0, 50.0)
    assert entry["curve"] == [[100, 2.0], [200, 1.0]]
    unreached = training_entry(run, 0.5, {"median": 50.0})
    assert unreached["images"] is unreached["seconds"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--options", "plain,fast"], "unknown 'fast'; choose from plain, bf16"),
        (["--rules", "cubic"], "unknown 'cubic'; choose from none, sqrt, linear"),
        (["--micros", "4,x"], "--micros"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(arguments, message):
    done = run_module("benchmarks.batch_size_study", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_quick_run_ends_with_its_advice(tmp_path):
    record, stdout = quick_run("batch_size_study", tmp_path)
    details = record["details"]
    advice.check(details)
    assert stdout.endswith("\n".join(details["advice"]) + "\n")
    assert {row["micro"] for row in details["speed"]} == {1, 2, 4}
    assert {row["batch"] for row in details["trainings"]} == {2, 4}
    assert all(row["micro"] > 0 for row in details["fits"])
    assert len(details["noise"]) > 1
