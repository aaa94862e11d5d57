"""The scaling figure has the measured, predicted and projected values of its record."""

from __future__ import annotations

import pytest

from benchmarks.support import report, scaling_plot
from tests.benchmarks.drawn import draw, legend

HERE, LINK = "here, pages of 256 rows", "projected: a link"


@pytest.fixture
def panels(tmp_path):
    """Return the four panels: rates, predictions, projections, index."""
    results = [
        report.result(HERE, "1 rank", "images/s", [40.0]),
        report.result(HERE, "ddp, 2 ranks", "images/s", [60.0, 64.0, 68.0]),
        report.result(HERE, "ddp, 2 ranks, predicted", "images/s", [66.0]),
        report.result(LINK, "1 rank", "images/s", [40.0], {"of N times one": 1.0}),
        report.result(LINK, "1,024 ranks", "images/s", [9e3], {"of N times one": 0.5}),
        report.result("index: first batch", "100,000 samples", "seconds", [0.25]),
        report.result("index: first batch", "1,000,000 samples", "seconds", [0.5]),
        report.result("index: on disk", "100,000 samples", "MB", [1.8]),
    ]
    machine = {"gpu": None, "cpu": "a processor"}
    record = {"benchmark": "scaling", "results": results, "environment": {"machine": machine}}
    return draw(scaling_plot.plot, record, tmp_path / "scaling.png").axes


def test_measured_rates_are_bars_without_predictions(panels):
    assert [bar.get_width() for bar in panels[0].patches] == [64.0, 40.0]


def test_predictions_are_points_over_measurements(panels):
    points = {name: line.get_xydata().tolist() for name, line in legend(panels[1]).items()}
    assert points == {"ddp, 2 ranks": [[64.0, 66.0]]}


def test_projections_are_shares_over_ranks(panels):
    points = {name: line.get_xydata().tolist() for name, line in legend(panels[2]).items()}
    assert points == {"a link": [[1, 1.0], [1024, 0.5]]}


def test_index_panel_has_the_times_only(panels):
    points = {name: line.get_xydata().tolist() for name, line in legend(panels[3]).items()}
    assert points == {"first batch": [[100_000, 0.25], [1_000_000, 0.5]]}
