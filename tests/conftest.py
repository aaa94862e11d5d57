"""For all tests: how long hypothesis looks for what breaks a parser, and tables of what was found.

`--hypothesis-profile=long` goes on looking.
"""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Derandomised: a test suite that fails on some days only helps nobody.
settings.register_profile(
    "default",
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", max_examples=200_000, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("default")


def pytest_configure(config: Any) -> None:
    """Keep processes that run tests at the same time, and what they start, on cores of their own.

    A training of one process takes a thread for every core it may use; beside another's work such
    threads wait for one another so busily that half a minute became three.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores, count = sorted(os.sched_getaffinity(0)), worker["workercount"]
        own = cores[int(worker["workerid"].removeprefix("gw")) :: count]
        os.sched_setaffinity(0, own or cores)


TABLES: dict[str, list[str]] = {}  # what tests measured, by title


@pytest.fixture(scope="session")
def tables() -> dict[str, list[str]]:
    """Tables in Markdown that are printed after the tests, rows by title."""
    return TABLES


def pytest_sessionfinish(session: Any) -> None:
    """Hand the tables of a process that ran tests to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tables"] = TABLES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the tables of a process that ran tests; one that crashed has none."""
    for title, rows in getattr(node, "workeroutput", {}).get("tables", {}).items():
        TABLES.setdefault(title, []).extend(rows)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured, ready for the documentation."""
    for title, rows in TABLES.items():
        terminalreporter.section(title)
        for row in rows:
            terminalreporter.write_line(row)
