"""Charts show the numbers: lengths and greys are measured in the pictures."""

import numpy as np
import pytest

from vaetrain.reporting import charts
from vaetrain.reporting.charts import (
    BAR,
    BIN,
    BIN_ROWS,
    BINS,
    HEIGHT,
    MARGIN,
    PAPER,
    WIDTH,
    bars,
    ticks,
)


def lengths(picture: np.ndarray, count: int) -> np.ndarray:
    """Pixels of each bar, at its left edge."""
    step = max(1, min(24, WIDTH // count))
    return (picture[:, MARGIN : MARGIN + count * step : step] == BAR).sum(axis=0)


@pytest.mark.parametrize("count", [1, 3, 16, 128, 512, 700])
def test_a_bar_is_as_long_as_its_value(count):
    values = np.sort(np.random.default_rng(0).exponential(size=count))[::-1] * 37
    pixels = HEIGHT / ticks(values.max())[-1]
    assert np.abs(lengths(bars(values, "nats"), count) - values * pixels).max() <= 0.5


def test_bars_of_nothing_and_of_what_is_no_number():
    assert lengths(bars(np.zeros(4), "nats"), 4).tolist() == [0] * 4
    found = lengths(bars(np.array([1.0, np.nan, np.inf, 0.5]), "nats"), 4)
    assert found.tolist() == [HEIGHT, 0, 0, HEIGHT // 2]


def test_a_mark_stands_at_its_value_and_the_scale_reaches_it():
    picture = bars(np.array([0.5, 0.25]), "std", {"prior": 1.0})
    assert lengths(picture, 2).tolist() == [HEIGHT // 2, HEIGHT // 4]
    dashed = (picture[:, MARGIN : MARGIN + 100] == charts.INK).sum(axis=1)
    foot = np.flatnonzero((picture == BAR).any(axis=1)).max() + 1
    assert dashed.argmax() == foot - HEIGHT


@pytest.mark.parametrize("largest", [1e-9, 0.013, 0.1, 0.3, 1.0, 2.0, 7.3, 10.0, 332.0, 4.1e6])
def test_a_scale_is_round_and_not_much_longer_than_what_it_measures(largest):
    scale = ticks(largest)
    assert 3 <= len(scale) <= 6
    assert scale[0] == 0
    assert largest <= scale[-1] * (1 + 1e-6)
    assert scale[-2] < largest
    digits = scale[1] / 10.0 ** np.floor(np.log10(scale[1]) + 1e-9)
    assert round(digits, 6) in (1, 2, 5)


@pytest.mark.parametrize("count", [1, 2, 40, 512])
def test_a_matrix_is_as_dark_as_its_values(count):
    values = np.random.default_rng(0).uniform(size=(count, count))
    cell = max(1, WIDTH // 2 // count)
    corner = charts.LETTER // 2
    table = charts.matrix(values)[corner:, corner:][: cell * count, : cell * count]
    shown = 1 - table[::cell, ::cell] / PAPER
    np.testing.assert_allclose(shown, values, atol=0.5 / PAPER + 1e-9)


def test_histograms_count_everything_once():
    values = np.stack([np.linspace(-3.9, 3.9, 320), np.full(320, 100.0)], axis=1)
    picture = charts.histograms(values, ["even", "beyond"], across=1)
    for half, wanted in zip(np.split(picture, 2), ("even", "beyond"), strict=True):
        columns = (half[:, charts.LETTER :] == BAR).sum(axis=0)[: BIN * BINS : BIN]
        if wanted == "beyond":
            assert columns[:-1].tolist() == [0] * (BINS - 1)
            assert columns[-1] > BIN_ROWS - 5
        else:
            # The scale reaches up to the normal density, 0.4, of which 1/8 is the even one.
            assert columns[BIN:-BIN].min() > 0
            assert np.ptp(columns[2:-2]) <= 4
