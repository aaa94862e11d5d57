"""Time of training steps by purpose, from a profiler trace; roofline bounds of operations.

A trace is the JSON that `torch.profiler` exports; `steps.Steps.profile` marks every step in it.
"""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support import operation_costs
from benchmarks.support.trainer_tasks import STEP
from shards.errors import UserError

Event = Mapping[str, Any]
Interval = tuple[float, float]

NODE = "autograd::engine::evaluate_function: "
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
COMMUNICATION, COPIES, WAITING = "communication", "copies", "waiting for data"
OVERHEAD = "between operations"
EXPLAINED = 1 / 3  # roofline bound / measured time; if it is lower, the bottleneck is overhead


@dataclass(frozen=True)
class Operation:
    """An operation that no other operation calls (outermost), or a kernel that it started.

    Attributes:
        name: name of the operation.
        purpose: such as "convolution"; see `operation_costs.RANGES`.
        start, seconds: start time on the trace's clock, and duration.
        flops, bytes: FLOPs computed and bytes moved. If an operation started several kernels, the
            first kernel has the values of all of them.
    """

    name: str
    purpose: str
    start: float
    seconds: float
    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Trace:
    """Steps and operations of a trace.

    Attributes:
        steps: start and end of each step, seconds.
        operations: operations of all steps; on a GPU, the kernels instead.
        waits: intervals in which the trainer waited for data.
        on_gpu: whether `operations` are GPU kernels.
    """

    steps: list[Interval]
    operations: list[Operation]
    waits: list[Interval]
    on_gpu: bool

    def by_purpose(self) -> dict[str, list[float]]:
        """Return the seconds of every step by purpose; they sum to the time of the step.

        Communication counts only while no other operation runs. The remaining time is `OVERHEAD`:
        Python code, and the start of operations.
        """
        by_purpose: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(self.steps))
        communicating: list[list[Interval]] = [[] for _ in self.steps]
        computing: list[list[Interval]] = [[] for _ in self.steps]
        for operation in self.operations:
            number = self._step_of(operation.start)
            if number is None:
                continue
            interval = (operation.start, operation.start + operation.seconds)
            if operation.purpose == COMMUNICATION:
                communicating[number].append(interval)
            else:
                computing[number].append(interval)
                by_purpose[operation.purpose][number] += operation.seconds
        for interval in self.waits:
            number = self._step_of(interval[0])
            if number is not None:
                by_purpose[WAITING][number] += length(subtract([interval], computing[number]))
        for number, (start, end) in enumerate(self.steps):
            if any(communicating):
                exposed = subtract(communicating[number], computing[number])
                by_purpose[COMMUNICATION][number] = length(exposed)
            known = sum(seconds[number] for seconds in by_purpose.values())
            by_purpose[OVERHEAD][number] += max(0.0, end - start - known)
        return dict(by_purpose)

    def totals(self) -> dict[str, tuple[int, int, int]]:
        """Return the number of operations, FLOPs and bytes of all steps by purpose."""
        totals: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        for operation in self.operations:
            count, flops, moved = totals[operation.purpose]
            totals[operation.purpose] = (
                count + 1,
                flops + operation.flops,
                moved + operation.bytes,
            )
        return dict(totals)

    def by_operation(self) -> dict[str, float]:
        """Return the mean seconds per step of each operation, by `<purpose>: <operation>`."""
        means: dict[str, float] = defaultdict(float)
        for operation in self.operations:
            name = f"{operation.purpose}: {operation.name.removeprefix('aten::')}"
            means[name] += operation.seconds / len(self.steps)
        return dict(means)

    def _step_of(self, moment: float) -> int | None:
        number = bisect.bisect(self.steps, (moment, float("inf"))) - 1
        return number if number >= 0 and moment < self.steps[number][1] else None


def read(path: Path) -> Trace:
    """Read a trace from a file.

    Raises UserError if the file is not a trace, or contains no complete step.
    """
    try:
        events = json.loads(path.read_text())["traceEvents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a trace of torch.profiler ({error})") from error
    return trace_of(events, path)


def trace_of(events: Iterable[Event], path: Path) -> Trace:
    """Return the steps and operations among the events of a trace; raises UserError like `read`."""
    spans = [event for event in events if event.get("ph") == "X"]
    steps = [_interval(e) for e in spans if e["name"] == STEP and e.get("cat") == "user_annotation"]
    if not steps:
        raise UserError(
            f"{path}: no steps are marked in it; make the trace with benchmarks.profile_kernels"
        )
    waits = [_interval(e) for e in spans if e["name"] == "data" and e["cat"] == "user_annotation"]
    calls = _CallTree(spans)
    kernels = [event for event in spans if event.get("cat") in KERNELS]
    operations = calls.kernels(kernels) if kernels else calls.operations
    return Trace(sorted(steps), operations, waits, bool(kernels))


class _CallTree:
    """Outermost operations with their purposes, from the nesting of the events of each thread.

    Attributes:
        operations: the outermost operations; no other operation calls them.
    """

    def __init__(self, spans: Sequence[Event]) -> None:
        threads: dict[Any, list[Event]] = defaultdict(list)
        for event in spans:
            if event.get("cat") in ("cpu_op", "user_annotation"):
                threads[event.get("pid"), event.get("tid")].append(event)
        self.operations: list[Operation] = []
        self.outermost: dict[Any, Operation] = {}  # by external id of each inner operation
        self._forward: dict[int, str] = {}  # purpose by autograd's sequence number
        # Sorted by start time, so that the forward pass is first: the purposes of the backward
        # pass are taken from it.
        for thread in sorted(threads.values(), key=lambda events: min(e["ts"] for e in events)):
            self._walk(sorted(thread, key=lambda event: (event["ts"], -event["dur"])))

    def _walk(self, events: Sequence[Event]) -> None:
        stack: list[Event] = []
        for place, event in enumerate(events):
            while stack and stack[-1]["ts"] + stack[-1]["dur"] <= event["ts"]:
                stack.pop()
            if _is_operation(event) and not any(map(_is_operation, stack)):
                self._add(event, stack, list(_inside(events, place)))
            elif operation_costs.is_communication(event["name"]):
                self._append(event, COMMUNICATION, 0, 0)
            stack.append(event)

    def _add(self, event: Event, stack: Sequence[Event], inside: Sequence[Event]) -> None:
        purpose = self._purpose(stack)
        if not any(outer["name"].startswith(NODE) for outer in stack):
            # Several operations can have the same sequence number; only the last of them has a
            # gradient, so its purpose replaces earlier ones. The number of a custom autograd
            # function is in the event around its operations.
            for each in (*stack, *inside):
                _set_by_number(self._forward, each, "Sequence number", purpose)
        flops = sum(operation_costs.flops(each["name"], each.get("args", {})) for each in inside)
        moved = operation_costs.bytes_moved(event["name"], event.get("args", {}))
        is_copy = event["name"] in operation_costs.COPIES
        operation = self._append(event, COPIES if is_copy else purpose, flops, moved)
        for each in inside:
            _set_by_number(self.outermost, each, "External id", operation)

    def _append(self, event: Event, purpose: str, flops: int, moved: int) -> Operation:
        start, end = _interval(event)
        operation = Operation(event["name"], purpose, start, end - start, flops, moved)
        self.operations.append(operation)
        return operation

    def _purpose(self, stack: Sequence[Event]) -> str:
        for outer in reversed(stack):
            if outer["name"].startswith(NODE):
                number = outer.get("args", {}).get("Sequence number")
                return self._forward.get(number, operation_costs.GRADIENTS)
            purpose = operation_costs.purpose_of_range(outer["name"])
            if purpose is not None:
                return purpose
        return "other"

    def kernels(self, kernels: Sequence[Event]) -> list[Operation]:
        """Return GPU kernels as operations.

        A kernel has the purpose of the operation that started it.
        """
        operations, counted = [], set()
        for event in kernels:
            cause = self.outermost.get(event.get("args", {}).get("External id"))
            purpose = "other" if cause is None else cause.purpose
            if operation_costs.is_communication(event["name"]):
                purpose = COMMUNICATION
            elif event["name"].startswith(operation_costs.COPY_KERNELS):
                purpose = COPIES
            name = event["name"] if cause is None else cause.name
            first = cause is not None and id(cause) not in counted
            counted.add(id(cause))
            work = (cause.flops, cause.bytes) if first else (0, 0)
            start, end = _interval(event)
            operations.append(Operation(name, purpose, start, end - start, *work))
        return operations


def _inside(events: Sequence[Event], place: int) -> Iterator[Event]:
    """Yield an event of a thread, and all later events that start before this event ends."""
    end = events[place]["ts"] + events[place]["dur"]
    while place < len(events) and events[place]["ts"] < end:
        yield events[place]
        place += 1


def _set_by_number(table: dict[Any, Any], event: Event, key: str, value: object) -> None:
    """Set `table[n] = value`, where n is the event's argument `key`, if the event has it."""
    number = event.get("args", {}).get(key)
    if number is not None:
        table[number] = value


def _is_operation(event: Event) -> bool:
    """Return whether a span is an operation, not a range that groups operations."""
    name = event["name"]
    if event.get("cat") != "cpu_op" or "::" not in name or operation_costs.is_communication(name):
        return False
    return not name.startswith(("autograd::", "profiler::", "torch::"))


def _interval(event: Event) -> Interval:
    return event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6


def subtract(intervals: Iterable[Interval], removed: Iterable[Interval]) -> list[Interval]:
    """Return the parts of `intervals` that overlap no interval of `removed`, in order."""
    left = []
    covers = union(removed)
    for start, end in union(intervals):
        for first, last in covers[max(0, bisect.bisect(covers, (start, start)) - 1) :]:
            if first >= end:
                break
            if last <= start:
                continue
            if first > start:
                left.append((start, first))
            start = max(start, last)
        if start < end:
            left.append((start, end))
    return left


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Merge intervals that overlap or touch; the result is in order."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def length(intervals: Iterable[Interval]) -> float:
    """Return the sum of the intervals' lengths."""
    return sum(end - start for start, end in intervals)


def roofline_bound(
    seconds: float, flops: float, moved: float, peak_flops: float, bandwidth: float
) -> str:
    """Return the bottleneck of some work: `compute`, `memory` or `overhead`.

    In the roofline model (Williams et al. 2009), the bound is the longer of two times at the
    device's peak rates: the time to compute the FLOPs and the time to move the bytes. If the bound
    is less than a third of the measured time, the bottleneck is overhead: operations are too small,
    or Python calls them too slowly.
    """
    computing, moving = flops / peak_flops, moved / bandwidth
    if max(computing, moving) < EXPLAINED * seconds:
        return "overhead"
    return "compute" if computing >= moving else "memory"
