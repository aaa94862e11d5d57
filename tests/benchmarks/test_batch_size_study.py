"""What a study says follows from what it measured; the command leaves a record and pictures."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.support import report
from benchmarks.support.batch_size import advice, plots


def speed(micro: int, accumulation: int, median: float, option: str = "plain") -> dict:
    row = {"micro": micro, "accumulation": accumulation, "option": option}
    return row | {"q1": 0.9 * median, "median": median, "q3": 1.1 * median}


def peak(micro: int, option: str = "plain", share: float = 1.0) -> dict:
    size = int(share * (20 + 10 * micro)) * 10**6
    return {
        "micro": micro,
        "option": option,
        "predicted": size,
        "measured": size,
        "cuda": size + 1000,
    }


def training(batch: int, images: float | None, rate: float) -> dict:
    return {
        "batch": batch,
        "rule": "sqrt",
        "lr": 0.001,
        "curve": [[100, 2.0], [200, 1.0], [300, 0.9]],
        "images_per_second": rate,
        "images": images,
        "seconds": None if images is None else images / rate,
    }


@pytest.fixture
def details() -> dict:
    """Micro batches of 8 are as fast as any; global batches of 16 are soonest at the target."""
    found = {
        "batch": 8,
        "memory": [peak(4), peak(8), peak(16), peak(8, "checkpointing", 0.5)],
        "fits": [{"option": "plain", "gib": 8, "micro": 700}],
        "speed": [
            *(speed(4, 8, 60.0), speed(8, 4, 98.0), speed(16, 2, 100.0)),
            *(speed(8, 1, 90.0), speed(16, 1, 95.0)),
            *(speed(8, 1, 60.0, "checkpointing"), speed(8, 1, 135.0, "bf16")),
        ],
        "options": [
            {"micro": 8, "option": "checkpointing", "q1": 0.6, "median": 0.67, "q3": 0.7},
            {"micro": 8, "option": "bf16", "q1": 1.4, "median": 1.5, "q3": 1.6},
            {"micro": 8, "option": "channels last", "q1": 0.9, "median": 1.06, "q3": 1.1},
        ],
        "target": 1.25,
        "trainings": [training(8, 300, 90.0), training(16, 280, 95.0), training(32, None, 100.0)],
        "noise": [
            {"images": 100, "pages": 10.0, "low": 8, "high": 12, "gradient": 1, "noise": 10},
            {"images": 200, "pages": 40.0, "low": 20, "high": None, "gradient": 1, "noise": 40},
            {"images": 300, "pages": None, "low": 50, "high": None, "gradient": -1, "noise": 40},
        ],
    }
    return found | {"advice": advice.advice(found)}


def test_the_advice_is_the_smallest_that_is_as_good_as_any(details):
    advice.check(details)
    first, *rest = details["advice"]
    assert first == "Use micro 8, global 16 (2 accumulation steps on one device)."
    said = " ".join(rest)
    assert "98 images/s at a micro batch of 8, 100 at the fastest" in said
    assert "larger only costs memory, 100 MB against 180 at 16" in said
    assert "32 (sqrt) did not" in said
    assert "about 40 pages (95%: 20 - no upper end) after 200 images" in said
    assert "checkpointing: 0.67 times as fast, slower, in 0.50 of the memory" in said
    assert "bf16: 1.50 times as fast, worth it." in said
    assert "channels last: 1.06 times as fast, which may be chance." in said
    assert "plain: 700 in 8 GiB" in said
    assert "Predicted peaks were 1.000 to 1.000 of those measured here." in said


def test_a_micro_batch_is_never_larger_than_the_global_one(details):
    details["trainings"] = [training(4, 100, 60.0), training(8, 300, 90.0)]
    assert advice.advice(details)[0] == "Use micro and global 4."


def test_the_largest_that_was_timed_is_not_called_the_best_there_is(details):
    details["speed"][2] = speed(16, 2, 200.0)
    assert "a larger one may be faster still" in advice.advice(details)[1]


def test_where_nothing_reached_the_target_the_experiments_batch_stays(details):
    details["trainings"] = [training(16, None, 90.0)]
    said = advice.advice(details)
    assert said[0] == "Use micro and global 8."
    assert "No training reached" in said[2]


@pytest.mark.parametrize(
    ("path", "value"),
    [(("target",), None), (("speed", 0, "median"), 0), (("fits", 0, "gib"), 1.5), (("x",), 1)],
)
def test_details_of_another_form_are_refused(details, path, value):
    broken = copy.deepcopy(details)
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"^\$"):
        advice.check(broken)


def test_every_panel_of_the_plot_shows_something(details, tmp_path):
    environment = {"machine": {"gpu": None, "cpu": "a processor"}}
    plots.plot({"details": details, "environment": environment}, tmp_path / "study.png")
    look(tmp_path / "study.png")


def look(path) -> None:
    """Each of the six panels has ink of the plots' own colours."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 3
    for row in range(2):
        for column in range(3):
            panel = picture[row * rows :, column * columns :][:rows, :columns]
            coloured = panel.max(axis=2) - panel.min(axis=2) > 60
            assert coloured.sum() > 100, (row, column)


@pytest.mark.slow
def test_the_quick_study_leaves_a_record_and_a_picture(tmp_path):
    command = [sys.executable, "-m", "benchmarks.batch_size_study", "--quick"]
    command += ["--out", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=180)
    record = json.loads((tmp_path / "batch_size_study.json").read_text())
    report.check(record)
    advice.check(record["details"])
    assert record["quick"] is True
    assert done.stdout.endswith("\n".join(record["details"]["advice"]) + "\n")
    assert {row["micro"] for row in record["details"]["speed"]} == {1, 2, 4}
    assert {row["batch"] for row in record["details"]["trainings"]} == {2, 4}
    assert all(row["micro"] > 0 for row in record["details"]["fits"])
    assert len(record["details"]["noise"]) > 1
    look(tmp_path / "batch_size_study.png")
