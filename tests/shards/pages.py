"""Layouts that the tests of building share."""

from __future__ import annotations

import json
from pathlib import Path


def page(name: str, *, x: int = 0, **extra: object) -> dict:
    """Return a layout of six boxes; `x` moves them."""
    boxes = [{"b": [x + 10 * i, 20 * i, 30, 15]} for i in range(6)]
    return {"id": name, "w": 200, "h": 300, "r": {"b": [0, 0, 200, 300], "c": boxes}, **extra}


def write_lines(path: Path, records: list) -> Path:
    """Write layouts to a JSON lines file; return its path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
