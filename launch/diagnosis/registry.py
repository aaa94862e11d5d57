"""Registry of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from launch.diagnosis.machine import Machine
from launch.diagnosis.outcome import Held
from launch.diagnosis.trainings import Workbench


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
MODULES = ("training_checks", "tool_checks", "step_checks")
"""Modules that register checks; the first does not import torch."""


def find(name: str) -> Check:
    """Return a check, and import no more modules than are needed to find it."""
    for module in MODULES:
        import_module(f"launch.diagnosis.{module}")
        if name in CHECKS:
            return CHECKS[name]
    raise KeyError(name)


def register(
    name: str, *, seconds: float, plan: Callable[[Machine], str], engine: str | None = None
) -> Callable[[Callable[[Workbench], Held]], Callable[[Workbench], Held]]:
    """Return a decorator that registers a function as a check; see `Check`."""

    def add(run: Callable[[Workbench], Held]) -> Callable[[Workbench], Held]:
        CHECKS[name] = Check(name, seconds, plan, run, engine)
        return run

    return add
