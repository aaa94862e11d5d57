"""Whether anything became worse: two records of one benchmark, or folders of them, side by side.

    python -m benchmarks.compare OLD NEW

Prints every median that changed by more than its noise; exit status 1 where one is worse, or is no
longer measured. Records of different machines, or settings, are compared by their ratios alone.
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

NOTCH = 1.57  # half a notch is so many quartile ranges over the root of the rounds
SAME = ("cpu", "cores", "gpu")  # of the machine, where rates are to be compared


@dataclass(frozen=True)
class Change:
    """What became of one median.

    Attributes:
        name: what was measured.
        old, new: medians.
        noise: how far apart medians are that nothing but chance has moved.
        better: `higher`, `lower` or `neither`.
    """

    name: str
    old: float
    new: float
    noise: float
    better: str

    @property
    def is_real(self) -> bool:
        """Whether the medians are further apart than noise."""
        return abs(self.new - self.old) > self.noise

    @property
    def is_worse(self) -> bool:
        """Whether it is a change for the worse, and real."""
        fell = self.new < self.old
        return self.is_real and self.better == ("higher" if fell else "lower")

    def __str__(self) -> str:
        said = "WORSE" if self.is_worse else "better" if self.better != "neither" else "changed"
        change = 100 * (self.new / self.old - 1)
        return (
            f"{said:<8}{self.name}: {self.old:,.4g} -> {self.new:,.4g} "
            f"({change:+.1f}%, noise {100 * self.noise / self.old:.1f}%)"
        )


def noise(old: Mapping[str, Any], new: Mapping[str, Any], rounds: tuple[int, int]) -> float:
    """How far apart two medians may be by chance: both halves of their notches together.

    McGill, Tukey and Larsen 1978, "Variations of box plots": where notches do not overlap, medians
    differ at about the 95% level.
    """
    spreads = [
        (each["q3"] - each["q1"]) / math.sqrt(n) for each, n in zip((old, new), rounds, strict=True)
    ]
    return NOTCH * sum(spreads)


def changes(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[Change], list[str]]:
    """Every median of two records of one benchmark, and the names of what the new one lacks."""
    found, gone = [], []
    if comparable(old, new):
        theirs = {_name(entry): entry for entry in new["results"]}
        for entry in old["results"]:
            name = _name(entry)
            if name not in theirs:
                gone.append(name)
                continue
            rounds = len(entry["rounds"]), len(theirs[name]["rounds"])
            found.append(_change(name, entry, theirs[name], rounds, entry["better"]))
    theirs = {_name(entry): entry for entry in new["comparisons"]}
    rounds = old["settings"]["rounds"], new["settings"]["rounds"]
    for entry in old["comparisons"]:
        name = _name(entry)
        if name in theirs:
            found.append(_change(name, entry, theirs[name], rounds, "higher"))
        else:
            gone.append(name)
    return found, gone


def comparable(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether rates may be compared: the same machine, device, threads and kind of run."""
    machines = [
        (
            *(told["environment"]["machine"][key] for key in SAME),
            told["environment"]["threads"],
            told["settings"]["device"],
            told["quick"],
        )
        for told in (old, new)
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
    """The files to compare: two records, or those of one name in two folders."""
    if not old.is_dir():
        yield old, new
        return
    files = sorted(old.glob("*.json"))
    if not files:
        raise UserError(f"{old}: holds no records")
    for file in files:
        yield file, new / file.name


def load(path: Path) -> dict[str, Any]:
    """A record; raises UserError where the file is none."""
    try:
        told = json.loads(path.read_text())
        report.check(told)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no benchmark's record ({error})") from error
    return told


def main() -> int:
    """Run the command; the exit status."""
    parser = cli.Parser(prog="benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path, help="a record, or a folder of them")
    parser.add_argument("new", type=Path, help="what is to be no worse")
    arguments = parser.parse_args()
    failed = False
    for before, after in pairs(arguments.old, arguments.new):
        old, new = load(before), load(after)
        if old["benchmark"] != new["benchmark"]:
            raise UserError(f"{after}: is of {new['benchmark']}, not of {old['benchmark']}")
        found, gone = changes(old, new)
        ratios = "" if comparable(old, new) else ", ratios only: not measured alike"
        print(f"{old['benchmark']}: {len(found)} medians{ratios}")
        lines = [str(change) for change in found if change.is_real]
        lines += [f"GONE    {name}" for name in gone]
        sys.stdout.writelines(f"  {line}\n" for line in lines)
        failed |= bool(gone) or any(change.is_worse for change in found)
    print("worse" if failed else "no worse")
    return int(failed)


if __name__ == "__main__":
    cli.run("benchmarks.compare", main)
