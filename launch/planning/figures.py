"""Numbers of a plan, each with the way it was found, as aligned text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

# How a number was found. "computed" ones follow from others of the plan.
SET, COUNTED, MEASURED, ASSUMED, COMPUTED = "set", "counted", "measured", "assumed", "computed"
PREFIXES = ("", "k", "M", "G", "T", "P", "E")
SCALED = {"B", "B/s", "FLOP"}  # units that are shown with a prefix of 1000
DURATIONS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))


@dataclass(frozen=True)
class Figure:
    """One number of a plan.

    Attributes:
        group: heading that it is shown under.
        name: unique within the plan.
        unit: "s" for all durations and "B" for all amounts of bytes; empty: a number or a word.
        basis: one of the five words above.
        source: what the value is from, and how to change it.
    """

    group: str
    name: str
    value: float | int | str
    unit: str
    basis: str
    source: str

    @property
    def text(self) -> str:
        """The value with its unit, rounded to three digits."""
        if isinstance(self.value, str):
            return self.value
        if self.unit == "s":
            return _duration(self.value)
        if self.unit in SCALED:
            return _with_prefix(self.value, self.unit)
        shown = f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:,.3g}"
        if isinstance(self.value, float) and self.value >= 1000:
            shown = f"{self.value:,.0f}"
        return f"{shown} {self.unit}".strip()


def _duration(seconds: float) -> str:
    unit, size = next((pair for pair in DURATIONS if seconds >= 0.9995 * pair[1]), DURATIONS[-1])
    return f"{seconds / size:.3g} {unit}"


def _with_prefix(value: float, unit: str) -> str:
    power = 0
    while value >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {PREFIXES[power]}{unit}"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as aligned lines, with a heading for each group."""
    names = max(len(figure.name) for figure in figures)
    values = max(len(figure.text) for figure in figures)
    lines: list[str] = []
    for group, members in groupby(figures, lambda figure: figure.group):
        lines += ["", group]
        lines += [
            f"  {f.name:<{names}}  {f.text:>{values}}  {f.basis}: {f.source}" for f in members
        ]
    return "\n".join(lines[1:])


def write_json(path: Path, facts: Mapping[str, Any], figures: Iterable[Figure]) -> None:
    """Write an object of the facts and of `figures`, a list with the attributes of `Figure`."""
    tree = {**facts, "figures": [asdict(figure) for figure in figures]}
    path.write_text(json.dumps(tree, indent=1) + "\n")
