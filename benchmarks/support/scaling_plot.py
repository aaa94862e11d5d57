"""Figure of benchmarks.scaling: measured and predicted rates, projections, time of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.figures import open_figure


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw four panels: measured rates, predictions, projections, and the index."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in record["results"]:
        groups.setdefault(entry["group"], []).append(entry)
    measured = next(entries for name, entries in groups.items() if name.startswith("here"))
    with open_figure(record, path, rows=2, columns=2, dpi=110, figsize=(13, 9)) as panels:
        _rates(panels[0, 0], measured)
        _predictions(panels[0, 1], measured)
        _projections(panels[1, 0], _with_prefix(groups, "projected: "))
        _index(panels[1, 1], _with_prefix(groups, "index: "))


def _with_prefix(groups: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): entries
        for name, entries in groups.items()
        if name.startswith(prefix)
    }


def _rates(panel: Any, entries: list[dict[str, Any]]) -> None:
    entries = [entry for entry in entries if "predicted" not in entry["name"]][::-1]
    panel.barh(
        [entry["name"] for entry in entries],
        [entry["median"] for entry in entries],
        xerr=np.array([_error_bar(entry) for entry in entries]).T,
        capsize=3,
    )
    panel.set_title("measured on this machine", loc="left")
    panel.set_xlabel("images/s")


def _error_bar(entry: dict[str, Any]) -> tuple[float, float]:
    return entry["median"] - entry["q1"], entry["q3"] - entry["median"]


def _predictions(panel: Any, entries: list[dict[str, Any]]) -> None:
    by_name = {entry["name"]: entry for entry in entries}
    for name, entry in by_name.items():
        predicted = by_name.get(f"{name}, predicted")
        if predicted is None:
            continue
        errors = {"xerr": np.reshape(_error_bar(entry), (2, 1))}
        errors |= {"yerr": np.reshape(_error_bar(predicted), (2, 1))}
        panel.errorbar(
            entry["median"], predicted["median"], **errors, fmt="o", label=name, capsize=3
        )
    highest = 1.15 * max(entry["q3"] for entry in entries)
    panel.plot([0, highest], [0, highest], color="gray", linewidth=1)
    line = np.array([0, highest])
    panel.fill_between(line, 0.9 * line, 1.1 * line, color="gray", alpha=0.15)
    panel.set(xlim=(0, highest), ylim=(0, highest))
    panel.set_xlabel("measured, images/s")
    panel.set_ylabel("predicted from single ranks, images/s")
    panel.set_title("two ranks; grey: within 10% of the measurement", loc="left")
    panel.legend(fontsize=8)


def _projections(panel: Any, groups: dict[str, list[dict[str, Any]]]) -> None:
    for name, entries in groups.items():
        ranks = [_number(entry["name"]) for entry in entries]
        shares = [entry["notes"]["of N times one"] for entry in entries]
        panel.plot(ranks, shares, marker="o", label=name)
    panel.set(xscale="log", ylim=(0, 1.05))
    panel.set_xlabel("ranks, with the same pages a rank")
    panel.set_ylabel("rate / (N x rate of one rank)")
    panel.set_title("projected from one rank, not measured", loc="left")
    panel.legend(fontsize=8)


def _number(name: str) -> int:
    """Return the number at the start of a name such as "1,024 ranks"."""
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
    panel.set_title("time to open an index and read a batch; dashed: 2 s", loc="left")
    panel.legend(fontsize=8)
