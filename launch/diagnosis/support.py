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
        return f"{engine} needs {spec.min_processes} processes, each with a GPU of its own"
    return None


def precision_problem(precision: str, machine: Machine) -> str | None:
    """Return why a precision cannot be used on a machine; None if it can."""
    if precision == "fp16" and not machine.gpus:
        return "fp16 needs a GPU"
    if precision == "bf16" and not machine.has_bf16:
        return "bf16 needs GPUs of compute capability 8.0"
    return None


def describe(machine: Machine) -> Iterator[str]:
    """Yield a line for every engine and every precision."""
    for engine in engine_names():
        yield f"engine {engine}: {engine_problem(engine, machine) or 'can run'}"
    for precision in PRECISIONS:
        name = "fp32" if precision == "no" else precision
        yield f"precision {name}: {precision_problem(precision, machine) or 'can run'}"
