"""The record of a benchmark: a JSON file of a checked schema, a table and a figure."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch

from benchmarks.support import figures

ROOT = Path(__file__).resolve().parents[2]

_SPREAD = {
    "median": {"type": "number", "exclusiveMinimum": 0},
    "q1": {"type": "number", "exclusiveMinimum": 0},
    "q3": {"type": "number", "exclusiveMinimum": 0},
}
_NAMED = {"group": {"type": "string"}, "name": {"type": "string"}}


def _object(properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


SCHEMA = _object(
    {
        "schema": {"const": 1},
        "benchmark": {"type": "string"},
        "created": {"type": "string", "format": "date-time"},
        "quick": {"type": "boolean"},
        "environment": _object(
            {
                "machine": {"type": "object", "required": ["cpu", "cores", "memory_gib", "gpu"]},
                "versions": {"type": "object", "required": ["python", "torch", "numpy"]},
                "commit": {"type": ["string", "null"]},
                "uncommitted_changes": {"type": ["boolean", "null"]},
                "threads": {"type": "integer", "minimum": 1},
                "load_average": {"type": "number"},
            }
        ),
        "settings": {"type": "object", "required": ["seed", "rounds", "warmup", "device"]},
        "missing": {"type": "array", "items": _object({**_NAMED, "reason": {"type": "string"}})},
        "results": {
            "type": "array",
            "minItems": 1,
            "items": _object(
                {
                    **_NAMED,
                    "unit": {"type": "string"},
                    "better": {"enum": ["higher", "lower", "neither"]},
                    **_SPREAD,
                    "rounds": {"type": "array", "items": {"type": "number"}, "minItems": 1},
                    "threads": {"type": "integer", "minimum": 1},
                    "notes": {"type": "object"},
                },
                optional=["notes", "threads"],
            ),
        },
        "comparisons": {
            "type": "array",
            "items": _object(
                {
                    **_NAMED,
                    "against": {"type": "string"},
                    **_SPREAD,
                    "target": {"type": ["number", "null"]},
                    "within": {"type": "number", "exclusiveMinimum": 0},
                    "met": {"type": ["boolean", "null"]},
                    "threads": {"type": "array", "items": {"type": "integer"}},
                },
                optional=["within", "threads"],
            ),
        },
        "details": {"type": "object"},
    },
    optional=["details"],
)
"""JSON Schema of a record; benchmarks/README.md describes its keys."""


@dataclass
class Entries:
    """Entries of a record, collected while they are measured; see `record`."""

    results: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Return the machine, the versions of torch, numpy and `packages`, and the commit."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    changes = _git("status", "--porcelain")
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": versions,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else changes != "",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def result(
    group: str,
    name: str,
    unit: str,
    rounds: Sequence[float],
    notes: dict[str, Any] | None = None,
    better: str = "higher",
    threads: int | None = None,
) -> dict[str, Any]:
    """Return an entry of `results`: the values of all rounds, their median and quartiles.

    Args:
        threads: CPU threads of all ranks of the case together, if cases may differ in it.
        better: `higher` for a rate, `lower` for memory, `neither` for a share of a whole.
    """
    entry = {"group": group, "name": name, "unit": unit, "better": better}
    entry |= {**_spread(rounds), "rounds": list(rounds)}
    if threads is not None:
        entry["threads"] = threads
    return entry if notes is None else {**entry, "notes": notes}


def compare(
    results: Sequence[dict[str, Any]],
    group: str,
    name: str,
    against: str,
    target: float | None,
    *,
    within: float | None = None,
) -> dict[str, Any]:
    """Return an entry of `comparisons`: the ratio of `name` to `against`.

    The median and quartiles are of the ratios within rounds, so that a slow round cancels out. A
    ratio of cases with different numbers of threads meets no target.

    Args:
        target: minimum of the median ratio.
        within: maximum deviation of the median ratio from 1; replaces `target`.
    """
    values = {entry["name"]: entry["rounds"] for entry in results if entry["group"] == group}
    spread = _spread(np.array(values[name]) / np.array(values[against]))
    entry = {"group": group, "name": name, "against": against, **spread}
    threads = {entry["name"]: entry.get("threads") for entry in results if entry["group"] == group}
    if None not in (threads[name], threads[against]) and threads[name] != threads[against]:
        entry["threads"] = [threads[name], threads[against]]
        return entry | {"target": 1.0 if target is None and within else target, "met": None}
    if within is not None:
        return entry | {
            "target": 1.0,
            "within": within,
            "met": abs(spread["median"] - 1) <= within,
        }
    return entry | {"target": target, "met": None if target is None else spread["median"] >= target}


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    q1, median, q3 = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def record(
    benchmark: str,
    *,
    quick: bool,
    settings: dict[str, Any],
    packages: Sequence[str],
    results: Sequence[dict[str, Any]],
    comparisons: Sequence[dict[str, Any]] = (),
    missing: Sequence[dict[str, str]] = (),
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the record of one run of a benchmark, which follows `SCHEMA`.

    Args:
        details: data other than rates, such as curves, in the benchmark's own schema.
    """
    entries = {
        "schema": 1,
        "benchmark": benchmark,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": quick,
        "environment": environment(packages),
        "settings": settings,
        "missing": list(missing),
        "results": list(results),
        "comparisons": list(comparisons),
    }
    return entries if details is None else {**entries, "details": details}


def check(record: Any) -> None:
    """Raise ValueError, in one line, if a record does not follow `SCHEMA`."""
    try:
        jsonschema.validate(record, SCHEMA)
    except jsonschema.ValidationError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from None


def publish(
    record: dict[str, Any],
    folder: Path,
    plot: Callable[[dict[str, Any], Path], None] = figures.bar_chart,
) -> None:
    """Write `folder`/<benchmark>.json and .png, and print the table.

    Args:
        plot: draws the record into a file.
    """
    check(record)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['benchmark']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    plot(record, path.with_suffix(".png"))
    sys.stdout.write(table(record))
    print(f"\n{path}\n{path.with_suffix('.png')}")


def table(record: dict[str, Any]) -> str:
    """Return the results, missing cases and comparisons of a record as lines of text."""
    lines = ["", f"threads of this process: {record['environment']['threads']}"]
    for group in dict.fromkeys(entry["group"] for entry in record["results"]):
        results, missing, comparisons = (
            [entry for entry in record[kind] if entry["group"] == group]
            for kind in ("results", "missing", "comparisons")
        )
        lines += ["", f"{group:<34}{results[0]['unit']:>12}{'quartiles':>22}"]
        for entry in sorted(results, key=lambda entry: -entry["median"]):
            notes = ", ".join(f"{value} {name}" for name, value in entry.get("notes", {}).items())
            quartiles = f"{entry['q1']:,.4g} - {entry['q3']:,.4g}"
            line = f"  {entry['name']:<32}{entry['median']:>12,.4g}{quartiles:>22}  {notes}"
            lines.append(line.rstrip())
        lines += [f"  {entry['name']:<32}     missing: {entry['reason']}" for entry in missing]
        lines += [f"  {_sentence(entry)}" for entry in comparisons]
    return "\n".join(lines[1:]) + "\n"


def _sentence(entry: dict[str, Any]) -> str:
    ratio = f"{entry['name']}: {entry['median']:.2f}x {entry['against']}"
    ratio += f" ({entry['q1']:.2f} - {entry['q3']:.2f})"
    if "threads" in entry:
        ours, others = entry["threads"]
        return f"{ratio}, not judged: {ours} threads against {others}"
    if entry["target"] is None:
        return ratio
    target = f"{entry['target']:g}x"
    if "within" in entry:
        target += f" within {entry['within']:.0%}"
    return f"{ratio}, target {target}: {'met' if entry['met'] else 'MISSED'}"
