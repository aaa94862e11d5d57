"""Captures as processes, and what they wrote."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import REPO

COMMAND = [sys.executable, "-m", "shards.capture", "--no-sandbox"]
MARK = "CAPTURE_TEST"  # variable by which the processes of a capture are found

Boxes = list[tuple[str | None, int, int, int, int]]


def start(out: Path, *arguments: str, mark: str = "") -> subprocess.Popen:
    """Start a capture, with a variable in its environment that its processes inherit."""
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *arguments],
        cwd=REPO,
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def capture(out: Path, *arguments: str, status: int = 0, mark: str = "") -> str:
    """Run a capture to its end and return what it printed."""
    with start(out, *arguments, mark=mark) as process:
        printed = process.communicate(timeout=200)[0]
    assert process.returncode == status, printed
    return printed


def records_of(out: Path) -> dict[str, dict]:
    """Return the records of an output by the name of their page."""
    lines = gzip.decompress(out.read_bytes()).splitlines() if out.exists() else []
    records = map(json.loads, lines)
    return {f"{r['url_path'].strip('/')} {r['viewport']}": r for r in records}


def boxes_of(record: dict) -> Boxes:
    """Return kind, left, top, width and height of all boxes, in px of the page."""
    found: Boxes = []

    def visit(node: dict, left: int, top: int) -> None:
        x, y, width, height = node["b"]
        found.append((node.get("t"), left + x, top + y, width, height))
        for child in node.get("c", []):
            visit(child, left + x, top + y)

    visit(record["r"], 0, 0)
    return found


def processes(mark: str) -> list[int]:
    """Return the processes that inherited a mark from a capture."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
