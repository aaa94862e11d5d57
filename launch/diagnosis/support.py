"""Engines and precisions that can run on a machine, with the reason where one cannot."""

from __future__ import annotations

from collections.abc import Iterator

from launch.diagnosis.machine import Machine, has_module
from vaetrain.engines.engine_files import engine_names
from vaetrain.engines.spec import ENGINES, PRECISIONS


def engine_problem(engine: str, machine: Machine) -> str | None:
    """Return why an engine cannot run on all devices of a machine; None if it can."""
    spec = ENGINES[engine]
    world_size = 1 if spec.max_processes == 1 else machine.ranks
    if spec.distributed_type == "DEEPSPEED" and not has_module("deepspeed"):
        return "deepspeed is not installed; install it with: pip install deepspeed"
    if not spec.allows(world_size):
        return f"it needs {spec.min_processes} processes, each with a GPU of its own"
    return None


def precision_problem(precision: str, machine: Machine) -> str | None:
    """Return why a precision cannot be used on a machine; None if it can."""
    if precision == "fp16" and not machine.gpus:
        return "needs a GPU"
    if precision == "bf16" and not machine.has_bf16:
        return "needs GPUs of compute capability 8.0"
    return None


def describe(machine: Machine) -> Iterator[str]:
    """Yield the engines and the precisions that can run, and a line for each that cannot."""
    precisions = {"fp32" if name == "no" else name: name for name in PRECISIONS}
    problems = {
        "engine": {name: engine_problem(name, machine) for name in engine_names()},
        "precision": {
            shown: precision_problem(name, machine) for shown, name in precisions.items()
        },
    }
    for kind, by_name in problems.items():
        usable = [name for name, problem in by_name.items() if problem is None]
        yield f"{kind}s that can run: {', '.join(usable)}"
        for name, problem in by_name.items():
            if problem is not None:
                yield f"{kind} {name} cannot run: {problem}"
