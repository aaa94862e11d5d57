"""Charts, whose lengths and greys are measured in the pictures."""

import numpy as np
import pytest

from vaetrain.reporting import charts
from vaetrain.reporting.charts import (
    BAR,
    BIN,
    BIN_ROWS,
    BINS,
    HEIGHT,
    LETTER,
    MARGIN,
    PAPER,
    RANGE,
    WIDTH,
    bars,
    ticks,
)


def bar_lengths(picture: np.ndarray, count: int) -> np.ndarray:
    """Return the length of each bar in pixels, at its left edge."""
    step = max(1, min(24, WIDTH // count))
    return (picture[:, MARGIN : MARGIN + count * step : step] == BAR).sum(axis=0)


@pytest.mark.parametrize("count", [1, 3, 16, 128, 512, 700])
def test_bar_lengths_are_proportional_to_values(count):
    values = np.sort(np.random.default_rng(0).exponential(size=count))[::-1] * 37
    pixels = HEIGHT / ticks(values.max())[-1]
    assert np.abs(bar_lengths(bars(values, "nats"), count) - values * pixels).max() <= 0.5


def test_zeros_and_non_finite_values_have_no_bars():
    assert bar_lengths(bars(np.zeros(4), "nats"), 4).tolist() == [0] * 4
    measured = bar_lengths(bars(np.array([1.0, np.nan, np.inf, 0.5]), "nats"), 4)
    assert measured.tolist() == [HEIGHT, 0, 0, HEIGHT // 2]


def test_a_mark_is_at_its_value_within_the_scale():
    picture = bars(np.array([0.5, 0.25]), "std", {"prior": 1.0})
    assert bar_lengths(picture, 2).tolist() == [HEIGHT // 2, HEIGHT // 4]
    dashed = (picture[:, MARGIN : MARGIN + 100] == charts.INK).sum(axis=1)
    foot = np.flatnonzero((picture == BAR).any(axis=1)).max() + 1
    assert dashed.argmax() == foot - HEIGHT


@pytest.mark.parametrize("largest", [1e-9, 0.013, 0.1, 0.3, 1.0, 2.0, 7.3, 10.0, 332.0, 4.1e6])
def test_a_scale_has_round_steps_and_ends_just_above_the_largest_value(largest):
    scale = ticks(largest)
    assert 3 <= len(scale) <= 6
    assert scale[0] == 0
    assert largest <= scale[-1] * (1 + 1e-6)
    assert scale[-2] < largest
    digits = scale[1] / 10.0 ** np.floor(np.log10(scale[1]) + 1e-9)
    assert round(digits, 6) in (1, 2, 5)


@pytest.mark.parametrize("count", [1, 2, 40, 512])
def test_matrix_greys_are_proportional_to_values(count):
    values = np.random.default_rng(0).uniform(size=(count, count))
    cell = max(1, WIDTH // 2 // count)
    corner = LETTER // 2
    table = charts.matrix(values)[corner:, corner:][: cell * count, : cell * count]
    shown = 1 - table[::cell, ::cell] / PAPER
    np.testing.assert_allclose(shown, values, atol=0.5 / PAPER + 1e-9)


def test_histogram_bars_are_proportional_to_the_counts():
    generator = np.random.default_rng(0)
    beyond = np.concatenate([np.full(100, 100.0), np.full(60, -100.0)])
    columns = np.stack([generator.normal(0.5, 1.5, 160), generator.uniform(-4, 4, 160), beyond], 1)
    picture = charts.histograms(columns, ["normal", "uniform", "beyond"], across=1)
    edges = np.linspace(-RANGE, RANGE, BINS + 1)
    highest_density = 0.3989 * (edges[1] - edges[0])
    for values, part in zip(columns.T, np.split(picture, 3), strict=True):
        counts, _ = np.histogram(values.clip(-RANGE, RANGE), edges)
        shares = counts / len(values)
        expected = shares * BIN_ROWS / max(shares.max(), highest_density)
        bins = part[LETTER : LETTER + BIN_ROWS, LETTER : LETTER + BIN * BINS]
        is_bar = (bins == BAR).reshape(BIN_ROWS, BINS, BIN).any(axis=2)
        lengths = np.where(is_bar.any(axis=0), BIN_ROWS - is_bar.argmax(axis=0), 0)
        # The line of the density hides up to two rows of a bar.
        assert np.abs(lengths - expected).max() <= 2.5
