"""The figure of the batch-size study contains the measured values."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.support.batch_size import plots
from tests.benchmarks.drawn import draw, legend


@pytest.fixture
def panels(details, tmp_path):
    """Return the six panels of the figure: speed, memory, noise, two of curves, cost."""
    machine = {"gpu": None, "cpu": "a processor"}
    record = {"benchmark": "study", "details": details, "environment": {"machine": machine}}
    figure = draw(plots.plot, record, tmp_path / "study.png")
    assert figure.get_suptitle() == "study: a processor"
    return figure.axes[:6]


def test_speed_has_a_line_for_each_accumulation_and_a_point_for_each_option(panels):
    lines = legend(panels[0])
    points = {label: line.get_xydata().tolist() for label, line in lines.items()}
    assert points == {
        "global batch of 32": [[4, 60], [8, 98], [16, 100]],
        "no accumulation": [[8, 90], [16, 95]],
        "checkpointing": [[8, 60]],
        "bf16": [[8, 135]],
    }
    assert [text.get_text() for text in panels[0].get_xticklabels()] == ["4", "8", "16"]


def test_memory_has_predictions_and_measurements(panels):
    lines = legend(panels[1])
    assert lines["predicted"].get_xydata().tolist() == [[4, 60], [8, 100], [16, 180]]
    assert lines["predicted, CUDA"].get_ydata().tolist() == [120, 200, 360]
    np.testing.assert_allclose(lines["plain"].get_ydata() * 1.1, [60, 100, 180])
    np.testing.assert_allclose(lines["checkpointing"].get_ydata() * 1.1, [50])


def test_noise_has_intervals_and_the_lower_bound_of_an_infinite_scale(panels):
    intervals = [bar.lines[0].get_xydata().tolist() for bar in panels[2].containers]
    assert intervals == [[[100, 10]], [[200, 40]]]
    assert [300, 50] in [line.get_xydata()[0].tolist() for line in panels[2].lines]
    assert [text.get_text() for text in panels[2].texts] == ["8", "16", "32"]


def test_curves_are_over_images_and_over_seconds(panels):
    images = legend(panels[3])["8, lr 0.001 (sqrt)"].get_xydata()
    seconds = legend(panels[4])["8, lr 0.001 (sqrt)"].get_xydata()
    assert images.tolist() == [[100, 2.0], [200, 1.0], [300, 0.9]]
    np.testing.assert_allclose(images[:, 0], 90.0 * seconds[:, 0])
    assert len(legend(panels[3])) == 3


def test_cost_has_the_trainings_that_reached_the_target(panels):
    lines = legend(panels[5])
    assert lines["images (sqrt)"].get_xydata().tolist() == [[8, 300], [16, 280]]
    # 300 images at batch 8 and a critical batch of 40: 250 (1 + batch / 40) images.
    predicted = lines["images, predicted by the noise scale"].get_xydata().tolist()
    assert predicted == [[8, 300], [16, 350], [32, 450]]
