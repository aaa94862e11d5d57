"""Layouts found in pictures as records of the compact schema, see `shards.format.schemas`."""

from __future__ import annotations

from typing import Any

import numpy as np

from vaetrain.layouts.boxes import PageBoxes, find_boxes

_DIGITS = 2  # of a coordinate behind the point


def layout_record(page: np.ndarray, texts: dict[str, Any]) -> dict[str, Any]:
    """Return the layout of a page as a record.

    Args:
        page: float (h, w), nesting depth / 40, see `find_boxes`.
        texts: `id`, `label`, `template`, ... of the page.

    The canvas has the size of the picture in px; `n` is the number of boxes. The root is the box
    around all others, or a node without a box if there is none. A page without boxes has only this
    node; `shards.build` refuses it, as it refuses every layout without a visible box.
    """
    height, width = page.shape
    found = find_boxes(page)
    return {
        **texts,
        "w": width,
        "h": height,
        "n": len(found.boxes),
        "depth": int(found.levels.max(initial=0)),
        "r": _tree(found),
    }


def _tree(found: PageBoxes) -> dict[str, Any]:
    """Return the root node; boxes are relative to their parents."""
    root: dict[str, Any] = {}
    nodes: list[dict[str, Any]] = []
    for (x0, y0, x1, y1), parent in zip(found.boxes.tolist(), found.parents, strict=True):
        left, top = (0.0, 0.0) if parent < 0 else found.boxes[parent, :2]
        node = {"b": [_number(v) for v in (x0 - left, y0 - top, x1 - x0, y1 - y0)]}
        above = root if parent < 0 else nodes[parent]
        above.setdefault("c", []).append(node)
        nodes.append(node)
    top_nodes = root.get("c", [])
    return top_nodes[0] if len(top_nodes) == 1 else root


def _number(value: float) -> int | float:
    """Return a coordinate rounded, and as int if it is a whole number."""
    rounded = round(float(value), _DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
