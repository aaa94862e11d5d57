"""Outcome of a check: held with figures, failed or skipped with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HELD, FAILED, SKIPPED = "held", "failed", "skipped"


class Skipped(Exception):
    """A check that this machine cannot run; the message is the reason, in one line."""


class Failed(Exception):
    """A check whose property does not hold; the message is the reason, in one line.

    Attributes:
        figures: measured values by name.
    """

    def __init__(self, reason: str, **figures: Any) -> None:
        super().__init__(reason)
        self.figures = figures


@dataclass(frozen=True)
class Held:
    """Result of a check whose property holds: a summary in one line, and figures by name."""

    summary: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Result of any check.

    Attributes:
        status: `HELD`, `FAILED` or `SKIPPED`.
        reason: in one line; of a check that held, its summary.
        seconds: that it took.
        figures: measured values by name.
    """

    check: str
    status: str
    reason: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
