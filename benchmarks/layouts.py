"""Round trip of layouts: drawn, and found again in the picture.

    python -m benchmarks.layouts [LAYOUTS.jsonl.gz] [--limit N] [--width PX ...] [--quick]

Without a file the pages are those of the built-in sample. Pages are cut at a height of four widths,
as in training. Recall is the share of the layouts' visible boxes that are found with an IoU of .9;
precision is the share of the found boxes that are boxes of the layout, visible or not, with an IoU
of .9. `benchmarks.support.visible_boxes` defines visible. L1 is the mean absolute difference of the
picture and the found boxes drawn again, as nesting depth / 40. Writes layouts.json and layouts.png.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.support import harness, report
from benchmarks.support.sample_pages import sample_lines
from benchmarks.support.visible_boxes import agreeing, distinct, visible_boxes
from shards import cli
from shards.format.layout import Layout, parse_layout, scaled_height
from shards.reading.draw import draw, place
from vaetrain.layouts.boxes import find_boxes

QUICK_PAGES = 6
SIDES = (1, 2, 4, 8)  # px; recall is reported by a box's shorter side


def drawn(boxes: np.ndarray, canvas: tuple[int, int], width: int, rows: int) -> np.ndarray:
    """Draw boxes (N, 4) of a canvas at a width: float32 (rows, width)."""
    tensor = torch.from_numpy(boxes.astype(np.float32))
    owner = torch.zeros(len(boxes), dtype=torch.long)
    one = torch.zeros(1, dtype=torch.long)
    placed = place(tensor, owner, torch.tensor([canvas], dtype=torch.float32), one, width)
    return draw(placed, owner, one + rows, (rows, width))[0, 0].numpy()


def round_trip(layout: Layout, width: int) -> dict[str, float]:
    """Measure one page; counts of boxes, and `L1` and `seconds`."""
    rows = min(scaled_height(layout.width, layout.height, width), 4 * width)
    page = drawn(layout.boxes, (layout.width, layout.height), width, rows)
    start = time.process_time()
    found = find_boxes(page).boxes
    seconds = time.process_time() - start
    again = drawn(found, (width, rows), width, rows)
    scaled = (layout.boxes * (width / layout.width)).clip(0, [width, rows] * 2)
    large = (scaled[:, 2:] - scaled[:, :2] > 0.5).all(axis=1)
    visible, found = visible_boxes(layout, width, rows), distinct(found)
    counts = {
        "visible": len(visible),
        "found": len(found),
        "recalled": agreeing(visible, found),
        "precise": agreeing(distinct(scaled[large]), found),
        "L1": float(np.abs(again - page).mean()),
        "seconds": seconds,
    }
    sides = (visible[:, 2:] - visible[:, :2]).min(axis=1, initial=np.inf)
    for first, last in zip(SIDES, (*SIDES[1:], np.inf), strict=True):
        part = visible[(sides >= first) & (sides < last)]
        counts |= {f"visible {first}": len(part), f"recalled {first}": agreeing(part, found)}
    return counts


def main() -> int:
    """Run the command and return the exit status."""
    parser = harness.parser("layouts", __doc__)
    parser.add_argument("layouts", type=Path, nargs="?", metavar="LAYOUTS.jsonl.gz")
    parser.add_argument("--limit", type=int, metavar="N", help="pages, evenly spaced")
    parser.add_argument("--width", type=int, nargs="+", default=[128, 256], metavar="PX")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = sample_lines()
    if arguments.layouts is not None:
        lines = gzip.decompress(arguments.layouts.read_bytes()).splitlines()
    limit = QUICK_PAGES if arguments.quick else (arguments.limit or len(lines))
    places = np.linspace(0, len(lines) - 1, min(limit, len(lines))).round().astype(int)
    layouts = [parse_layout(json.loads(lines[place])) for place in places]
    results = []
    for width in arguments.width:
        pages = [round_trip(layout, width) for layout in cli.progress(layouts, unit="page")]
        total = {key: sum(page[key] for page in pages) for key in pages[0]}
        group = f"{width} px, {len(pages)} pages"
        values = {
            "recall": (total["recalled"] / total["visible"], "share", "higher"),
            "precision": (total["precise"] / total["found"], "share", "higher"),
            "visible boxes a page": (total["visible"] / len(pages), "boxes", "neither"),
            "found boxes a page": (total["found"] / len(pages), "boxes", "neither"),
            "L1, mean": (total["L1"] / len(pages), "depth / 40", "lower"),
            "L1, largest": (max(page["L1"] for page in pages), "depth / 40", "lower"),
            "time a page": (1000 * total["seconds"] / len(pages), "CPU ms", "lower"),
            "time a page, largest": (
                1000 * max(page["seconds"] for page in pages),
                "CPU ms",
                "lower",
            ),
        }
        for side in SIDES:
            share = total[f"recalled {side}"] / max(1, total[f"visible {side}"])
            values[f"recall, shorter side from {side} px"] = (share, "share", "higher")
        results += [
            report.result(group, name, unit, [value], better=better)
            for name, (value, unit, better) in values.items()
            if value > 0
        ]
    record = report.record(
        "layouts",
        quick=arguments.quick,
        settings={"seed": arguments.seed, "rounds": 1, "warmup": 0, "device": "cpu"},
        packages=("scipy",),
        results=results,
    )
    report.publish(record, arguments.out)
    return 0


if __name__ == "__main__":
    cli.run("benchmarks.layouts", main)
