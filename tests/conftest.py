"""For all tests: how long hypothesis looks for what breaks a parser, and tables of what was found.

`--hypothesis-profile=long` goes on looking.
"""

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
