"""Registry of the checks, and what a check returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch.diagnosis.machine import Machine
    from launch.diagnosis.trainings import Workbench

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


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        seconds: its time limit.
        plan: returns in one line what would be done on a machine; raises Skipped.
        run: does it; returns Held or raises Failed or Skipped.
        engine: the engine that `--engines` selects it by; None: always selected.
    """

    name: str
    seconds: float
    plan: Callable[[Machine], str]
    run: Callable[[Workbench], Held]
    engine: str | None = None


CHECKS: dict[str, Check] = {}


def register(
    name: str, *, seconds: float, plan: Callable[[Machine], str], engine: str | None = None
) -> Callable[[Callable[[Workbench], Held]], Callable[[Workbench], Held]]:
    """Return a decorator that registers a function as a check; see `Check`."""

    def add(run: Callable[[Workbench], Held]) -> Callable[[Workbench], Held]:
        CHECKS[name] = Check(name, seconds, plan, run, engine)
        return run

    return add
