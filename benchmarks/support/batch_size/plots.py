"""What a batch-size study looks like: six panels, each a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.support.batch_size.setups import PLAIN

GROUND = {"linestyle": ":", "color": "gray", "linewidth": 1}


def plot(told: dict[str, Any], path: Path) -> None:
    """Draw a study's record into a file."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    details = told["details"]
    figure, panels = pyplot.subplots(2, 3, figsize=(14, 8), layout="constrained")
    _speed(panels[0, 0], details)
    _memory(panels[0, 1], details)
    _noise(panels[0, 2], details)
    _curves(panels[1, 0], details, "images seen", lambda run: 1.0)
    _curves(panels[1, 1], details, "seconds of training", lambda run: run["images_per_second"])
    _cost(panels[1, 2], details)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    machine = told["environment"]["machine"]
    figure.suptitle(f"batch-size study: {machine['gpu'] or machine['cpu']}", fontsize=11)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _batches(panel: Any, sizes: list[int], label: str) -> None:
    """An axis of batch sizes, each a tick."""
    panel.set_xscale("log", base=2)
    ticks = sorted(set(sizes))
    panel.set_xticks(ticks, [str(size) for size in ticks])
    panel.minorticks_off()
    panel.set_xlabel(label)


def _speed(panel: Any, details: dict[str, Any]) -> None:
    rows = details["speed"]
    most = max(row["micro"] * row["accumulation"] for row in rows)
    sweep = [
        row for row in rows if row["option"] == PLAIN and row["micro"] * row["accumulation"] == most
    ]
    sweep.sort(key=lambda row: row["micro"])
    _points(panel, sweep, fmt="o-", label=f"one step each {most} images")
    stepping = [row for row in rows if row["option"] == PLAIN and row["accumulation"] == 1]
    _points(panel, sorted(stepping, key=lambda row: row["micro"]), fmt="s--", label="one step each")
    for number, row in enumerate(row for row in rows if row["option"] != PLAIN):
        _points(panel, [row], fmt="^", label=row["option"], color=f"C{number + 2}")
    panel.set_ylim(0)
    panel.set_ylabel("images/s")
    panel.set_title("How fast?", loc="left")
    panel.legend(fontsize=8)
    _batches(panel, [row["micro"] for row in rows], "micro batch")


def _points(panel: Any, rows: list[dict[str, Any]], **looks: Any) -> None:
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["q1"] for row in rows]
    above = [row["q3"] - row["median"] for row in rows]
    panel.errorbar([row["micro"] for row in rows], medians, yerr=[below, above], capsize=3, **looks)


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
            said = [row["predicted"] / 1e6 for row in of_option]
            panel.plot(marks[0], said, "_", color=f"C{number}", markersize=14)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.set_ylabel("MB at the peak, tallest pages")
    panel.set_title("How much memory? (marks: measured)", loc="left")
    panel.legend(fontsize=8)
    _batches(panel, [row["micro"] for row in rows], "micro batch")


def _noise(panel: Any, details: dict[str, Any]) -> None:
    known = [row for row in details["noise"] if row["pages"] is not None]
    highest = 4 * max([row["pages"] for row in known], default=1)
    for row in known:
        # An interval without an upper end leaves the picture.
        ends = [[row["pages"] - row["low"]], [(row["high"] or highest) - row["pages"]]]
        panel.errorbar([row["images"]], [row["pages"]], yerr=ends, fmt="o", color="C0", capsize=4)
    for row in (row for row in details["noise"] if row["pages"] is None):
        panel.plot([row["images"]], [row["low"] or highest], "^", color="C0")
    for batch in sorted({row["batch"] for row in details["trainings"]}):
        panel.axhline(batch, **GROUND)
        panel.annotate(f"{batch}", (1, batch), xycoords=("axes fraction", "data"), fontsize=8)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_ylabel("pages")
    panel.set_xlabel("images seen")
    panel.set_title("Critical batch (95%); dotted: batches trained at", loc="left")


def _curves(panel: Any, details: dict[str, Any], label: str, speed: Any) -> None:
    for number, run in enumerate(details["trainings"]):
        points = [(images / speed(run), loss) for images, loss in run["curve"]]
        name = f"{run['batch']}, lr {run['lr']:.2g} ({run['rule']})"
        panel.plot(*zip(*points, strict=True), ".-", color=f"C{number % 10}", label=name)
    panel.axhline(details["target"], **GROUND)
    # The first points are far above all that is compared.
    losses = sorted(loss for run in details["trainings"] for _, loss in run["curve"])
    low, high = losses[0], min(losses[-1], 1.5 * losses[0])
    panel.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    panel.set_xlabel(label)
    panel.set_ylabel("validation loss")
    panel.set_title("How does it learn? Dotted: the target", loc="left")
    panel.legend(fontsize=7, loc="upper right", framealpha=0.6)


def _cost(panel: Any, details: dict[str, Any]) -> None:
    reached = [run for run in details["trainings"] if run["images"] is not None]
    beside = panel.twinx()
    others = [run["rule"] for run in reached if run["batch"] != details["batch"]]
    for rule in dict.fromkeys(others or ["none"]):
        # The experiment's own batch has the same learning rate under every rule.
        runs = [run for run in reached if rule == run["rule"] or run["batch"] == details["batch"]]
        runs.sort(key=lambda run: run["batch"])
        batches = [run["batch"] for run in runs]
        panel.plot(batches, [run["images"] for run in runs], "o-", label=f"images ({rule})")
        beside.plot(batches, [run["seconds"] for run in runs], "s--", label=f"seconds ({rule})")
    last = next((row for row in reversed(details["noise"]) if row["pages"] is not None), None)
    own = next((run for run in reached if run["batch"] == details["batch"]), None)
    if last is not None and own is not None:
        batches = sorted({run["batch"] for run in details["trainings"]})
        least = own["images"] / (1 + own["batch"] / last["pages"])
        theory = [least * (1 + batch / last["pages"]) for batch in batches]
        panel.plot(batches, theory, "k-", linewidth=1, label="images, by the noise scale")
    for axis, cost in ((panel, "images"), (beside, "seconds")):
        axis.set_ylim(0, 1.3 * max([run[cost] for run in reached], default=1))
    panel.set_ylabel("images to the target")
    beside.set_ylabel("seconds to the target")
    panel.set_title("What does the target cost?", loc="left")
    panel.legend(fontsize=8, loc="lower right")
    beside.legend(fontsize=8, loc="upper left")
    _batches(panel, [run["batch"] for run in details["trainings"]], "global batch")
