"""Fuzzer that runs the parsers on random damaged input for a given time.

    python -m tests.fuzz {layouts,captures,index,shards,experiments} [--seconds 600]
                         [--engine atheris]

The checks are those of the tests of untrusted files. hypothesis draws the damage; with atheris
(`pip install -e '.[fuzz]'`) the draws are guided by code coverage. The first failure ends the
fuzzer with a traceback and the example; add that example to the tests.
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

EXAMPLES = 500  # between two readings of the clock
FUZZED = (
    "shards",
    "vaetrain.settings",
    "vaetrain.config.experiment",
    "vaetrain.startup",
    "vaetrain.augment",
)

Check = Callable[[], None]
"""A hypothesis test without fixtures."""


def checks_of(parser: str, folder: Path) -> list[Check]:
    """Return the tests of a parser; they may write below `folder`."""
    from tests.shards import test_hostile as data
    from tests.shards.capturing import test_record as captures
    from tests.shards.capturing import test_robots as rules
    from tests.vaetrain import test_hostile as files

    if parser == "layouts":
        return [
            data.test_mutated_layouts_are_refused_or_valid,
            data.test_random_trees_are_refused_or_valid_layouts,
            data.test_damaged_json_is_refused_or_a_valid_layout,
            data.test_damaged_pictures_are_refused_or_gray,
            data.test_damaged_jpegs_are_refused_or_gray,
            data.test_damaged_dumps_are_refused_or_a_valid_layout,
        ]
    if parser == "captures":
        return [
            captures.test_a_mutated_walk_is_refused_or_gives_a_valid_layout,
            captures.test_random_boxes_are_refused_or_give_a_valid_layout,
            rules.test_any_text_is_read_and_answered,
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
            bound(data.test_damaged_index_header_is_refused, whole=whole, folder=copy),
            bound(
                data.test_resigned_index_header_is_refused_or_read,
                whole=whole,
                folder=copy,
            ),
            bound(data.test_damaged_index_table_is_refused, whole=whole, folder=copy),
        ]
    return [
        bound(data.test_damaged_shard_is_refused, whole=whole, folder=copy),
        bound(data.test_resigned_shard_is_refused_or_read, whole=whole, folder=copy),
        bound(data.test_damaged_sample_bytes_are_refused_or_split_into_members, whole=whole),
        bound(data.test_damaged_boxes_are_refused_or_an_array, whole=whole),
    ]


def bound(test: Check, **fixtures: object) -> Check:
    """Return a test with its fixtures bound; its only other argument is hypothesis's `data`."""
    inner = test.hypothesis.inner_test

    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        inner(data=data, **fixtures)

    return check


def explore(checks: list[Check], seconds: float) -> int:
    """Run the checks on random examples; return the number of executions."""
    executions = 0

    def counted(inner: Check) -> Check:
        def run(*arguments: object, **named: object) -> None:
            nonlocal executions
            executions += 1
            inner(*arguments, **named)

        return run

    options = settings(
        max_examples=EXAMPLES,
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


def run_atheris(checks: list[Check], seconds: float) -> None:
    """Run the checks on input that atheris chooses; it prints the count and ends this process."""
    import atheris

    targets = [check.hypothesis.fuzz_one_input for check in checks]

    def one(data: bytes) -> None:
        if data:
            targets[data[0] % len(targets)](data[1:])

    limits = [f"-max_total_time={seconds:.0f}", "-print_final_stats=1", "-max_len=4096"]
    limits.append("-len_control=0")  # with short inputs hypothesis draws nothing
    atheris.Setup([sys.argv[0], *limits], one)
    atheris.Fuzz()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parsers = ("layouts", "captures", "index", "shards", "experiments")
    parser.add_argument("parser", choices=parsers)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    arguments = parser.parse_args()
    instrumented = contextlib.nullcontext()
    if arguments.engine == "atheris":
        import atheris

        instrumented = atheris.instrument_imports(include=list(FUZZED))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        with instrumented:
            checks = checks_of(arguments.parser, Path(folder))
        if arguments.engine == "atheris":
            run_atheris(checks, arguments.seconds)
        executions = explore(checks, arguments.seconds)
        print(f"{arguments.parser}: {executions} executions, nothing found")


if __name__ == "__main__":
    main()
