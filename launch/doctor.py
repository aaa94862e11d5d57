"""Diagnosis of a machine: its hardware, what can run on it, and short real checks of the trainer.

    python -m launch.doctor [--minutes 10] [--json FILE]
    python -m launch.doctor --only resume engine_zero3
    python -m launch.doctor --dry-run --gpus 8

Checks run one after the other, each in a process of its own with a time limit, and end in a table.
A check held, failed with a reason, or was skipped, because the machine lacks the hardware or an
extra. The exit status is 1 if a check failed or ran out of time. docs/gpu.md describes the checks.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Collection
from pathlib import Path

from shards import cli
from shards.errors import UserError
from vaetrain.cli import output_file, whole

MAX_GPUS = 1024


def main() -> int:
    """Run the command; return the exit status, 1 if a check failed."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.gpus is not None and not arguments.dry_run:
        parser.error("--gpus needs --dry-run")
    # Local imports: torch takes seconds to import, and `--help` must not wait for it.
    from launch.diagnosis import machine as facts
    from launch.diagnosis import runner, support
    from launch.diagnosis.checks import CHECKS

    engines = {check.engine for check in CHECKS.values()} - {None}
    chosen = _names(arguments.engines, engines, "--engines")
    only = _names(arguments.only or list(CHECKS), CHECKS, "--only")
    checks = [CHECKS[name] for name in CHECKS if name in only]
    checks = [check for check in checks if check.engine is None or check.engine in chosen]
    machine = facts.gather()
    print("this machine:", *facts.describe(machine), sep="\n")
    if arguments.gpus is not None:
        gpu = (*machine.gpus, facts.Gpu("a GPU of 80 GiB that computes in bf16", 80.0, "9.0"))[0]
        machine = dataclasses.replace(machine, gpus=(gpu,) * arguments.gpus)
        number = f"{arguments.gpus or 'no'} GPU{'s' * (arguments.gpus != 1)}"
        kind = f", each like {gpu.name}" if machine.gpus else ""
        print(f"\nthe same machine with {number} (imagined{kind}):")
    print(*support.describe(machine), sep="\n")
    print(flush=True)
    if arguments.dry_run:
        print(
            "checks that would run, in this order; each ends at its own limit, and all together at "
            f"{arguments.minutes:g} minutes:"
        )
        print(*runner.plan(checks, machine), sep="\n")
        return 0
    results = []
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        for result in runner.run_checks(checks, machine, Path(folder), arguments.minutes):
            results.append(result)
            cli.print_line(runner.line(result))
            if arguments.json is not None:
                runner.write_json(results, arguments.json)
    print("\n" + runner.table(results))
    return runner.exit_status(results)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m launch.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--engines",
        type=lambda text: text.split(","),
        default=["all"],
        metavar="A,B",
        help="engines to check, separated by commas (default: all)",
    )
    add(
        "--minutes",
        type=_minutes,
        default=10.0,
        help="time for all checks together (default 10); with less, checks that no longer fit are "
        "skipped",
    )
    add("--only", nargs="+", metavar="NAME", help="run only these checks")
    add("--dry-run", action="store_true", help="print what would be done, and do nothing")
    add(
        "--gpus",
        type=whole(0, MAX_GPUS),
        metavar="N",
        help="with --dry-run: plan for a machine with N GPUs",
    )
    add("--json", type=output_file, metavar="FILE", help="write the results as JSON, too")
    return parser


def _minutes(text: str) -> float:
    """Parse a positive number."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text}, must be a number above 0")
    return minutes


def _names(given: list[str], known: Collection[str], option: str) -> set[str]:
    """Return the names that an option gives; raise UserError for an unknown one."""
    if given == ["all"]:
        return set(known)
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{option}: there is no {unknown[0]!r}; allowed are {', '.join(known)}")
    return set(given)


if __name__ == "__main__":
    cli.run("launch.doctor", main)
