"""The picture of benchmarks.scaling: what was measured, what is projected, what an index costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np


def plot(told: dict[str, Any], path: Path) -> None:
    """Four panels: rates here, prediction beside measurement, projections, and the index."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(13, 9), layout="constrained")
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in told["results"]:
        groups.setdefault(entry["group"], []).append(entry)
    here = next(group for name, group in groups.items() if name.startswith("here"))
    _rates(panels[0, 0], here)
    _predictions(panels[0, 1], here)
    projected = {n.partition(": ")[2]: g for n, g in groups.items() if n.startswith("projected")}
    _projections(panels[1, 0], projected)
    _index(panels[1, 1], {n.partition(": ")[2]: g for n, g in groups.items() if n[:5] == "index"})
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    machine = told["environment"]["machine"]
    figure.suptitle(f"scaling: {machine['gpu'] or machine['cpu']}", fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rates(panel: Any, entries: list[dict[str, Any]]) -> None:
    entries = [entry for entry in entries if "predicted" not in entry["name"]][::-1]
    panel.barh(
        [entry["name"] for entry in entries],
        [entry["median"] for entry in entries],
        xerr=np.array([_whisker(entry) for entry in entries]).T,
        capsize=3,
    )
    panel.set_title("measured here", loc="left")
    panel.set_xlabel("images/s")


def _whisker(entry: dict[str, Any]) -> tuple[float, float]:
    return entry["median"] - entry["q1"], entry["q3"] - entry["median"]


def _predictions(panel: Any, entries: list[dict[str, Any]]) -> None:
    by_name = {entry["name"]: entry for entry in entries}
    for name, entry in by_name.items():
        guess = by_name.get(f"{name}, predicted")
        if guess is None:
            continue
        errors = {"xerr": np.reshape(_whisker(entry), (2, 1))}
        errors |= {"yerr": np.reshape(_whisker(guess), (2, 1))}
        panel.errorbar(entry["median"], guess["median"], **errors, fmt="o", label=name, capsize=3)
    highest = 1.15 * max(entry["q3"] for entry in entries)
    panel.plot([0, highest], [0, highest], color="gray", linewidth=1)
    line = np.array([0, highest])
    panel.fill_between(line, 0.9 * line, 1.1 * line, color="gray", alpha=0.15)
    panel.set(xlim=(0, highest), ylim=(0, highest))
    panel.set_xlabel("measured, images/s")
    panel.set_ylabel("predicted from single ranks, images/s")
    panel.set_title("two ranks; gray: within 10%", loc="left")
    panel.legend(fontsize=8)


def _projections(panel: Any, groups: dict[str, list[dict[str, Any]]]) -> None:
    for name, entries in groups.items():
        ranks = [_number(entry["name"]) for entry in entries]
        shares = [entry["notes"]["of N times one"] for entry in entries]
        panel.plot(ranks, shares, marker="o", label=name)
    panel.set(xscale="log", ylim=(0, 1.05))
    panel.set_xlabel("ranks, the same pages for each")
    panel.set_ylabel("share of N times one rank's rate")
    panel.set_title("projected, not measured", loc="left")
    panel.legend(fontsize=8)


def _number(name: str) -> int:
    """What a name such as "1,024 ranks" begins with."""
    return int(name.partition(" ")[0].replace(",", ""))


def _index(panel: Any, groups: dict[str, list[dict[str, Any]]]) -> None:
    for name, entries in groups.items():
        if entries[0]["unit"] != "seconds":
            continue
        samples = [_number(entry["name"]) for entry in entries]
        panel.plot(samples, [entry["median"] for entry in entries], marker="o", label=name)
    panel.axhline(2, color="gray", linewidth=1, linestyle="--")
    panel.set(xscale="log", yscale="log")
    panel.set_xlabel("samples in the index")
    panel.set_ylabel("seconds")
    panel.set_title("index and order; dashed: 2 s", loc="left")
    panel.legend(fontsize=8)
