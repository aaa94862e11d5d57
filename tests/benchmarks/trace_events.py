"""Events of a profiler trace made by hand."""

from __future__ import annotations

from pathlib import Path

from benchmarks.support import traces
from benchmarks.support.trainer_tasks import STEP


def event(name: str, start: float, length: float, kind: str = "cpu_op", tid: int = 1, **args):
    """Return a complete event; times are in microseconds."""
    return {
        "ph": "X", "cat": kind, "name": name, "ts": start, "dur": length, "pid": 1, "tid": tid,
        "args": args,
    }  # fmt: skip


def trace_of_step(*events) -> traces.Trace:
    """Return the trace of one step of 100 microseconds with these events."""
    return traces.trace_of([event(STEP, 0, 100, "user_annotation"), *events], Path())
