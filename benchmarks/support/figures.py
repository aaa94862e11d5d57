"""Figures of the benchmarks: one frame for all, and the bar chart of medians and quartiles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np


@contextlib.contextmanager
def open_figure(
    record: dict[str, Any], path: Path, *, rows: int = 1, columns: int = 1, dpi: int, **options: Any
) -> Iterator[np.ndarray]:
    """Yield the axes (rows, columns) of a new figure, then save it under the machine's name.

    Args:
        record: names the benchmark and the machine in the figure's title.
        options: of `pyplot.subplots`.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(rows, columns, squeeze=False, layout="constrained", **options)
    try:
        yield panels
        for panel in panels.flat:
            panel.spines[["top", "right"]].set_visible(False)
        machine = record["environment"]["machine"]
        figure.suptitle(f"{record['benchmark']}: {machine['gpu'] or machine['cpu']}", fontsize=11)
        figure.savefig(path, dpi=dpi)
    finally:
        pyplot.close(figure)


def bar_chart(record: dict[str, Any], path: Path) -> None:
    """Draw one panel a group: a bar for each median, an error bar from quartile to quartile."""
    by_group: dict[str, list[dict[str, Any]]] = {}
    for entry in record["results"]:
        by_group.setdefault(entry["group"], []).append(entry)
    sizes = [len(entries) for entries in by_group.values()]
    height = 1.1 * len(sizes) + 0.36 * sum(sizes)
    with open_figure(
        record,
        path,
        rows=len(sizes),
        dpi=120,
        figsize=(8, height),
        gridspec_kw={"height_ratios": sizes},
    ) as panels:
        for panel, (group, entries) in zip(panels[:, 0], by_group.items(), strict=True):
            _bars(panel, group, sorted(entries, key=lambda entry: entry["median"]))


def _bars(panel: Any, group: str, entries: list[dict[str, Any]]) -> None:
    medians = np.array([entry["median"] for entry in entries])
    quartiles = np.array([[entry["q1"], entry["q3"]] for entry in entries]).T
    is_ours = [entry["name"].startswith("ours") for entry in entries]
    bars = panel.barh(
        [entry["name"] for entry in entries],
        medians,
        xerr=np.abs(quartiles - medians),
        color=["tab:orange" if ours else "tab:gray" for ours in is_ours],
        capsize=3,
    )
    panel.bar_label(bars, [f"{median:,.4g}" for median in medians], padding=6)
    panel.set_xlim(0, 1.15 * quartiles.max())
    panel.set_title(group, loc="left", fontsize=10)
    panel.set_xlabel(entries[0]["unit"])
