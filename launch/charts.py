"""Charts of the report of a study, as SVG; series also differ in line style and marker.

The colours are the colour-blind-safe palette of Okabe and Ito (2008), on white.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from launch.compare import Interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
FEW_POINTS = 12  # curves with at most so many points get markers
_STYLE = {
    "text.parse_math": False,  # a label that contains $ is not a formula
    "svg.hashsalt": "vaetrain",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Series:
    """One line of a chart: the label of a setting and the points (x, y) of each seed."""

    label: str
    seeds: Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Dot:
    """Mean and interval of a setting on one or two axes."""

    label: str
    y: Interval
    x: Interval | None = None


def curves(series: Sequence[Series], y_label: str) -> str:
    """Draw means over seeds against image counts, the range of the seeds shaded; up to 8 series."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(7.2, 3.6)
        values = []
        for number, one in enumerate(series):
            images, rows = _on_common_points(one.seeds)
            if not len(images):
                continue
            colour = COLOURS[number % len(COLOURS)]
            style = {"color": colour, "linestyle": LINES[number % len(LINES)], "linewidth": 1.8}
            if len(images) <= FEW_POINTS:  # a single point without a marker would be invisible
                style |= {"marker": MARKERS[number % len(MARKERS)], "markersize": 5}
            axes.plot(images, rows.mean(0), label=_shown(one.label), **style)
            if len(rows) > 1:
                axes.fill_between(images, rows.min(0), rows.max(0), color=colour, alpha=0.15, lw=0)
            values += rows.ravel().tolist()
        if values and min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("images")
        axes.set_ylabel(y_label)
        _legend(axes)
        return _svg(figure)


def dots(settings: Sequence[Dot], label: str, baseline: float | None) -> str:
    """Draw the mean and interval of every setting, one row each, and the mean of the baseline."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(7.2, 0.9 + 0.28 * len(settings))
        for place, one in enumerate(settings):
            spread = one.y.half_width if math.isfinite(one.y.half_width) else None
            axes.errorbar(one.y.mean, place, xerr=spread, fmt="o", color=COLOURS[0], capsize=3)
        if baseline is not None:
            axes.axvline(baseline, color=COLOURS[7], linestyle="--", linewidth=1)
        axes.set_yticks(range(len(settings)), [_shown(one.label) for one in settings])
        axes.set_ylim(len(settings) - 0.5, -0.5)
        axes.set_xlabel(label)
        return _svg(figure)


def rate_distortion(settings: Sequence[Dot], levels: Mapping[str, float]) -> str:
    """Draw distortion (y, L1) against rate (x, KL in nats) of the settings, in order of rate.

    Args:
        levels: distortions by name, drawn as dashed lines; their rate is not comparable.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(7.2, 3.6)
        ordered = sorted(settings, key=lambda one: one.x.mean)
        line = ([one.x.mean for one in ordered], [one.y.mean for one in ordered])
        axes.plot(*line, color=COLOURS[7], linewidth=1, zorder=1)
        for number, one in enumerate(settings):
            spreads = [w if math.isfinite(w) else 0 for w in (one.x.half_width, one.y.half_width)]
            axes.errorbar(
                one.x.mean,
                one.y.mean,
                xerr=spreads[0],
                yerr=spreads[1],
                fmt=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                capsize=3,
                label=_shown(one.label),
            )
        for name, distortion in levels.items():
            axes.axhline(distortion, color=COLOURS[7], linestyle="--", linewidth=1, label=name)
        axes.set_xlabel("rate: KL, nats per page")
        axes.set_ylabel("distortion: L1")
        _legend(axes)
        return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _shown(label: str) -> str:
    # Matplotlib leaves labels that begin with an underscore out of legends.
    short = label if len(label) <= 60 else f"{label[:57]}..."
    return f" {short}" if short.startswith("_") else short


def _on_common_points(
    seeds: Sequence[Sequence[Sequence[float]]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image counts that all seeds have, (P,), and the values there, (seeds, P)."""
    tables = [dict(map(tuple, points)) for points in seeds if points]
    if not tables:
        return np.empty(0), np.empty((0, 0))
    images = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array(images), np.array([[table[at] for at in images] for table in tables])


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
