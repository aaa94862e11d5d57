"""Outcome of a check: held, with measured values; or failed or skipped, with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HELD, FAILED, SKIPPED = "held", "failed", "skipped"


class Skipped(Exception):
    """Exception of a check that cannot run here; its message is the reason (one line)."""


class Failed(Exception):
    """Exception of a check whose property does not hold; its message is the reason (one line).

    Attributes:
        figures: measured values by name.
    """

    def __init__(self, reason: str, **figures: Any) -> None:
        super().__init__(reason)
        self.figures = figures


@dataclass(frozen=True)
class Held:
    """Result of a check whose property holds: a summary in one line, and measured values."""

    summary: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Result of any check.

    Attributes:
        status: `HELD`, `FAILED` or `SKIPPED`.
        reason: one line; if the check held, its summary.
        seconds: duration of the check.
        cpu_seconds: CPU time of all its processes that ended by themselves. On a machine without
            other work it is at most `seconds` times the number of cores; if it is far below
            `seconds`, the check waited for other programs.
        figures: measured values by name.
    """

    check: str
    status: str
    reason: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
