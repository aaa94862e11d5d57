"""Figure of the batch-size study: speed, memory, gradient noise, curves, cost to reach a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.support.batch_size.setups import PLAIN
from benchmarks.support.figures import open_figure

REFERENCE = {"linestyle": ":", "color": "gray", "linewidth": 1}


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw the record of a study into a file."""
    details = record["details"]
    with open_figure(record, path, rows=2, columns=3, dpi=80, figsize=(14, 8)) as panels:
        _speed(panels[0, 0], details)
        _memory(panels[0, 1], details)
        _noise(panels[0, 2], details)
        _curves(panels[1, 0], details, "images seen", lambda run: 1.0)
        _curves(panels[1, 1], details, "seconds of training", lambda run: run["images_per_second"])
        _cost(panels[1, 2], details)


def _batch_axis(panel: Any, sizes: list[int], label: str) -> None:
    """Set the x axis to a log scale with one tick for each batch size."""
    panel.set_xscale("log", base=2)
    ticks = sorted(set(sizes))
    panel.set_xticks(ticks, [str(size) for size in ticks])
    panel.minorticks_off()
    panel.set_xlabel(label)


def _speed(panel: Any, details: dict[str, Any]) -> None:
    rows = details["speed"]
    largest = max(row["micro"] * row["accumulation"] for row in rows)
    sweep = [
        row
        for row in rows
        if row["option"] == PLAIN and row["micro"] * row["accumulation"] == largest
    ]
    sweep.sort(key=lambda row: row["micro"])
    _points(panel, sweep, fmt="o-", label=f"global batch of {largest}")
    single = [row for row in rows if row["option"] == PLAIN and row["accumulation"] == 1]
    single.sort(key=lambda row: row["micro"])
    _points(panel, single, fmt="s--", label="no accumulation")
    for number, row in enumerate(row for row in rows if row["option"] != PLAIN):
        _points(panel, [row], fmt="^", label=row["option"], color=f"C{number + 2}")
    panel.set_ylim(0)
    panel.set_ylabel("images/s")
    panel.set_title("Speed", loc="left")
    panel.legend(fontsize=8)
    _batch_axis(panel, [row["micro"] for row in rows], "micro batch")


def _points(panel: Any, rows: list[dict[str, Any]], **style: Any) -> None:
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["q1"] for row in rows]
    above = [row["q3"] - row["median"] for row in rows]
    panel.errorbar([row["micro"] for row in rows], medians, yerr=[below, above], capsize=3, **style)


def _memory(panel: Any, details: dict[str, Any]) -> None:
    rows = details["memory"]
    plain = [row for row in rows if row["option"] == PLAIN]
    plain.sort(key=lambda row: row["micro"])
    sizes = [row["micro"] for row in plain]
    panel.plot(sizes, [row["predicted"] / 1e6 for row in plain], "-", label="predicted")
    panel.plot(sizes, [row["cuda"] / 1e6 for row in plain], ":", label="predicted, CUDA")
    for number, option in enumerate(dict.fromkeys(row["option"] for row in rows)):
        of_option = [row for row in rows if row["option"] == option and row["measured"]]
        marks = ([row["micro"] for row in of_option], [row["measured"] / 1e6 for row in of_option])
        panel.plot(*marks, "o" if option == PLAIN else "^", color=f"C{number}", label=option)
        if option != PLAIN:
            predicted = [row["predicted"] / 1e6 for row in of_option]
            panel.plot(marks[0], predicted, "_", color=f"C{number}", markersize=14)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.set_ylabel("peak MB, tallest pages")
    panel.set_title("Memory (marks: measured)", loc="left")
    panel.legend(fontsize=8)
    _batch_axis(panel, [row["micro"] for row in rows], "micro batch")


def _noise(panel: Any, details: dict[str, Any]) -> None:
    known = [row for row in details["noise"] if row["pages"] is not None]
    highest = 4 * max([row["pages"] for row in known], default=1)
    for row in known:
        # An interval without an upper bound extends beyond the panel.
        ends = [[row["pages"] - row["low"]], [(row["high"] or highest) - row["pages"]]]
        panel.errorbar([row["images"]], [row["pages"]], yerr=ends, fmt="o", color="C0", capsize=4)
    for row in (row for row in details["noise"] if row["pages"] is None):
        panel.plot([row["images"]], [row["low"] or highest], "^", color="C0")
    for batch in sorted({row["batch"] for row in details["trainings"]}):
        panel.axhline(batch, **REFERENCE)
        panel.annotate(f"{batch}", (1, batch), xycoords=("axes fraction", "data"), fontsize=8)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_ylabel("pages")
    panel.set_xlabel("images seen")
    panel.set_title("Critical batch, 95% interval; dotted: global batches", loc="left")


def _curves(panel: Any, details: dict[str, Any], label: str, speed: Any) -> None:
    for number, run in enumerate(details["trainings"]):
        points = [(images / speed(run), loss) for images, loss in run["curve"]]
        name = f"{run['batch']}, lr {run['lr']:.2g} ({run['rule']})"
        panel.plot(*zip(*points, strict=True), ".-", color=f"C{number % 10}", label=name)
    panel.axhline(details["target"], **REFERENCE)
    # The first points are far above the target and would compress the rest of the panel.
    losses = sorted(loss for run in details["trainings"] for _, loss in run["curve"])
    low, high = losses[0], min(losses[-1], 1.5 * losses[0])
    panel.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    panel.set_xlabel(label)
    panel.set_ylabel("validation loss")
    panel.set_title("Validation loss; dotted: the target", loc="left")
    panel.legend(fontsize=7, loc="upper right", framealpha=0.6)


def _cost(panel: Any, details: dict[str, Any]) -> None:
    reached = [run for run in details["trainings"] if run["images"] is not None]
    beside = panel.twinx()
    rules = [run["rule"] for run in reached if run["batch"] != details["batch"]]
    for rule in dict.fromkeys(rules or ["none"]):
        # With the experiment's own batch, every rule gives the same learning rate, so this run is
        # a point of every curve.
        runs = [run for run in reached if rule == run["rule"] or run["batch"] == details["batch"]]
        runs.sort(key=lambda run: run["batch"])
        batches = [run["batch"] for run in runs]
        panel.plot(batches, [run["images"] for run in runs], "o-", label=f"images ({rule})")
        beside.plot(batches, [run["seconds"] for run in runs], "s--", label=f"seconds ({rule})")
    last = next((row for row in reversed(details["noise"]) if row["pages"] is not None), None)
    own = next((run for run in reached if run["batch"] == details["batch"]), None)
    if last is not None and own is not None:
        batches = sorted({run["batch"] for run in details["trainings"]})
        minimum = own["images"] / (1 + own["batch"] / last["pages"])
        theory = [minimum * (1 + batch / last["pages"]) for batch in batches]
        panel.plot(batches, theory, "k-", linewidth=1, label="images, predicted by the noise scale")
    for axis, cost in ((panel, "images"), (beside, "seconds")):
        axis.set_ylim(0, 1.3 * max([run[cost] for run in reached], default=1))
    panel.set_ylabel("images to the target")
    beside.set_ylabel("seconds to the target")
    panel.set_title("Cost of reaching the target", loc="left")
    panel.legend(fontsize=8, loc="lower right")
    beside.legend(fontsize=8, loc="upper left")
    _batch_axis(panel, [run["batch"] for run in details["trainings"]], "global batch")
