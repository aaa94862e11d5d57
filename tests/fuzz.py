"""Fuzzer of the parsers, for a given time.

    python -m tests.fuzz {layouts,index,shards,experiments} [--seconds 600] [--engine atheris]

The checks are those of the tests of hostile files. hypothesis draws what to damage and how; with
atheris (`pip install -e '.[fuzz]'`) its draws follow what the code has not done yet. The first
finding ends it, with a traceback and the example, which then belongs among the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

PIECE = 500  # examples between two looks at the clock
FUZZED = (
    "shards",
    "vaetrain.settings",
    "vaetrain.config.experiment",
    "vaetrain.startup",
    "vaetrain.augment",
)

Check = Callable[[], None]
"""A test of hypothesis that needs no fixtures."""


def checks_of(parser: str, folder: Path) -> list[Check]:
    """The tests that try a parser; they may write below `folder`."""
    from tests.shards import test_hostile as data
    from tests.vaetrain import test_hostile as files

    if parser == "layouts":
        return [
            data.test_mutated_layouts,
            data.test_random_trees_as_layouts,
            data.test_damaged_json,
            data.test_damaged_pictures,
        ]
    if parser == "experiments":
        path = folder / "file.yaml"
        tests = (files.test_files_with_damaged_bytes, files.test_files_that_say_something_odd)
        return [
            *(bound(test, path=path, kind=kind) for test in tests for kind in files.CHECKS),
            files.test_settings_on_the_command_line,
            files.test_what_is_no_setting,
        ]
    whole = data.build_whole(folder)
    copy = shutil.copytree(whole, folder / "copy")
    if parser == "index":
        return [
            bound(data.test_damaged_index_header, whole=whole, folder=copy),
            bound(
                data.test_mutated_index_header_with_valid_checksum,
                whole=whole,
                folder=copy,
            ),
            bound(data.test_damaged_index_table, whole=whole, folder=copy),
        ]
    return [
        bound(data.test_damaged_shard, whole=whole, folder=copy),
        bound(data.test_damaged_shard_with_valid_checksum, whole=whole, folder=copy),
        bound(data.test_damaged_sample_bytes, whole=whole),
        bound(data.test_damaged_boxes, whole=whole),
    ]


def bound(test: Check, **fixtures: object) -> Check:
    """A test with its fixtures, whose only other argument is hypothesis's `data`."""
    inner = test.hypothesis.inner_test

    @given(data=st.data())
    def alone(data: st.DataObject) -> None:
        inner(data=data, **fixtures)

    return alone


def explore(checks: list[Check], seconds: float) -> int:
    """Run the checks on random examples; how many there were."""
    executions = 0

    def counted(inner: Check) -> Check:
        def run(*arguments: object, **named: object) -> None:
            nonlocal executions
            executions += 1
            inner(*arguments, **named)

        return run

    options = settings(
        max_examples=PIECE,
        deadline=None,
        derandomize=False,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    for check in checks:
        check.hypothesis.inner_test = counted(check.hypothesis.inner_test)
        options(check)
    first, number = time.time_ns(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seed(first + number)(checks[number % len(checks)])()
        number += 1
    return executions


def follow(checks: list[Check], seconds: float) -> None:
    """Let atheris choose the draws; it ends this process, and says how many there were."""
    import atheris

    targets = [check.hypothesis.fuzz_one_input for check in checks]

    def one(data: bytes) -> None:
        if data:
            targets[data[0] % len(targets)](data[1:])

    limits = [f"-max_total_time={seconds:.0f}", "-print_final_stats=1", "-max_len=4096"]
    limits.append("-len_control=0")  # too few bytes are no draws at all
    atheris.Setup([sys.argv[0], *limits], one)
    atheris.Fuzz()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parser", choices=("layouts", "index", "shards", "experiments"))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    arguments = parser.parse_args()
    watched = contextlib.nullcontext()
    if arguments.engine == "atheris":
        import atheris

        watched = atheris.instrument_imports(include=list(FUZZED))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        with watched:
            checks = checks_of(arguments.parser, Path(folder))
        if arguments.engine == "atheris":
            follow(checks, arguments.seconds)
        executions = explore(checks, arguments.seconds)
        print(f"{arguments.parser}: {executions} executions, nothing found")


if __name__ == "__main__":
    main()
