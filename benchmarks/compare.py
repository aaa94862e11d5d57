"""Regressions between two records of a benchmark, or between two folders of records.

    python -m benchmarks.compare OLD NEW

Prints every median that changed by more than its noise. The exit status is 1 if one is worse or no
longer measured. For records of different machines or settings only ratios are compared.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support import report
from shards import cli
from shards.errors import UserError

NOTCH = 1.57  # half a notch, in interquartile ranges over the root of the number of rounds
MACHINE = ("cpu", "cores", "gpu")  # must be equal for rates to be compared


@dataclass(frozen=True)
class Change:
    """Change of one median.

    Attributes:
        name: group and name of the case.
        old, new: medians.
        noise: difference of medians that is expected by chance.
        better: `higher`, `lower` or `neither`.
    """

    name: str
    old: float
    new: float
    noise: float
    better: str

    @property
    def is_real(self) -> bool:
        """The medians differ by more than the noise."""
        return abs(self.new - self.old) > self.noise

    @property
    def is_worse(self) -> bool:
        """The change is real and for the worse."""
        fell = self.new < self.old
        return self.is_real and self.better == ("higher" if fell else "lower")

    def __str__(self) -> str:
        kind = "WORSE" if self.is_worse else "better" if self.better != "neither" else "changed"
        change = 100 * (self.new / self.old - 1)
        return (
            f"{kind:<8}{self.name}: {self.old:,.4g} -> {self.new:,.4g} "
            f"({change:+.1f}%, noise {100 * self.noise / self.old:.1f}%)"
        )


def noise(old: Mapping[str, Any], new: Mapping[str, Any], rounds: tuple[int, int]) -> float:
    """Return the difference of two medians expected by chance: the sum of their half notches.

    McGill, Tukey and Larsen 1978, "Variations of box plots": if notches do not overlap, the medians
    differ at about the 95% level.
    """
    spreads = [
        (each["q3"] - each["q1"]) / math.sqrt(n) for each, n in zip((old, new), rounds, strict=True)
    ]
    return NOTCH * sum(spreads)


def changes(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[Change], list[str]]:
    """Return the changes between two records, and the names that the new record lacks."""
    compared, gone = [], []
    if comparable(old, new):
        new_entries = {_name(entry): entry for entry in new["results"]}
        for entry in old["results"]:
            name = _name(entry)
            if name not in new_entries:
                gone.append(name)
                continue
            rounds = len(entry["rounds"]), len(new_entries[name]["rounds"])
            compared.append(_change(name, entry, new_entries[name], rounds, entry["better"]))
    new_entries = {_name(entry): entry for entry in new["comparisons"]}
    rounds = old["settings"]["rounds"], new["settings"]["rounds"]
    for entry in old["comparisons"]:
        name = _name(entry)
        if name in new_entries:
            compared.append(_change(name, entry, new_entries[name], rounds, "higher"))
        else:
            gone.append(name)
    return compared, gone


def comparable(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether rates are comparable: same machine, device, threads and kind of run."""
    machines = [
        (
            *(record["environment"]["machine"][key] for key in MACHINE),
            record["environment"]["threads"],
            record["settings"]["device"],
            record["quick"],
        )
        for record in (old, new)
    ]
    return machines[0] == machines[1]


def _name(entry: dict[str, Any]) -> str:
    against = f" / {entry['against']}" if "against" in entry else ""
    return f"{entry['group']}: {entry['name']}{against}"


def _change(
    name: str, old: dict[str, Any], new: dict[str, Any], rounds: tuple[int, int], better: str
) -> Change:
    return Change(name, old["median"], new["median"], noise(old, new, rounds), better)


def pairs(old: Path, new: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the pairs of files to compare: two records, or equal names in two folders."""
    if not old.is_dir():
        yield old, new
        return
    files = sorted(old.glob("*.json"))
    if not files:
        raise UserError(f"{old}: no *.json records in this folder")
    for file in files:
        yield file, new / file.name


def load(path: Path) -> dict[str, Any]:
    """Read a record; raises UserError if the file is not one."""
    try:
        record = json.loads(path.read_text())
        report.check(record)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not the record of a benchmark ({error})") from error
    return record


def main() -> int:
    """Run the command and return the exit status."""
    parser = cli.Parser(prog="benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path, help="record, or folder of records")
    parser.add_argument("new", type=Path, help="record or folder to check for regressions")
    arguments = parser.parse_args()
    failed = False
    for before, after in pairs(arguments.old, arguments.new):
        old, new = load(before), load(after)
        if old["benchmark"] != new["benchmark"]:
            raise UserError(f"{after}: record of {new['benchmark']}, expected {old['benchmark']}")
        compared, gone = changes(old, new)
        ratios = "" if comparable(old, new) else ", ratios only: machine or settings differ"
        print(f"{old['benchmark']}: {len(compared)} medians{ratios}")
        lines = [str(change) for change in compared if change.is_real]
        lines += [f"GONE    {name}" for name in gone]
        sys.stdout.writelines(f"  {line}\n" for line in lines)
        failed |= bool(gone) or any(change.is_worse for change in compared)
    print("worse" if failed else "no worse")
    return int(failed)


if __name__ == "__main__":
    cli.run("benchmarks.compare", main)
