"""The bar chart has the medians, quartiles and names of a record."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from benchmarks.support import figures, report
from tests.benchmarks.drawn import draw


@pytest.fixture
def record() -> dict:
    results = [
        report.result("disk", "ours, boxes", "pages/s", [30.0, 10.0, 20.0]),
        report.result("disk", "peer", "pages/s", [10.0, 5.0, 2.0]),
        report.result("memory", "ours", "MB", [7.0], better="lower"),
    ]
    machine = {"gpu": None, "cpu": "a processor"}
    environment = {"machine": machine}
    return {"benchmark": "speed", "results": results, "environment": environment}


def test_bar_chart_has_a_panel_for_each_group_and_a_bar_for_each_median(record, tmp_path):
    figure = draw(figures.bar_chart, record, tmp_path / "speed.png")
    disk, memory = figure.axes
    assert figure.get_suptitle() == "speed: a processor"
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["disk", "memory"]
    assert [panel.get_xlabel() for panel in figure.axes] == ["pages/s", "MB"]
    assert [bar.get_width() for bar in disk.patches] == [5.0, 20.0]
    assert [bar.get_width() for bar in memory.patches] == [7.0]
    assert [label.get_text() for label in disk.get_yticklabels()] == ["peer", "ours, boxes"]
    colours = [bar.get_facecolor() for bar in disk.patches]
    assert colours == [to_rgba("tab:gray"), to_rgba("tab:orange")]


def test_error_bars_reach_from_quartile_to_quartile(record, tmp_path):
    disk, _ = draw(figures.bar_chart, record, tmp_path / "speed.png").axes
    (segments,) = [each.get_segments() for each in disk.collections]
    np.testing.assert_allclose([line[:, 0] for line in segments], [[3.5, 7.5], [15.0, 25.0]])


def test_title_names_the_gpu_if_there_is_one(record, tmp_path):
    record["environment"]["machine"]["gpu"] = "an accelerator"
    figure = draw(figures.bar_chart, record, tmp_path / "speed.png")
    assert figure.get_suptitle() == "speed: an accelerator"
