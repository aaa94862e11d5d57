"""Runs of a benchmark's command with `--quick`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.support import report
from tests.support.commands import run_module

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def quick_run(name: str, folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Run a benchmark in a process; check its files, and return its record and stdout."""
    quick = ("--quick", "--out", folder)
    done = run_module(f"benchmarks.{name}", *quick, *arguments, timeout=600)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / f"{name}.json").read_text())
    report.check(record)
    assert record["benchmark"] == name
    assert record["quick"] is True
    assert report.table(record) in done.stdout
    assert (folder / f"{name}.png").read_bytes().startswith(PNG_SIGNATURE)
    return record, done.stdout


def names_of(record: dict[str, Any], group: str) -> set[str]:
    """Return the names of the results of a group."""
    return {entry["name"] for entry in record["results"] if entry["group"] == group}
