"""What a profiler's trace of whole steps says: which purposes took how long, and what bounds them.

A trace is the JSON that `torch.profiler` exports, in which `steps.Steps.profile` marks every step.
"""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support import purposes
from benchmarks.support.steps import STEP
from shards.errors import UserError

Event = Mapping[str, Any]
Interval = tuple[float, float]

NODE = "autograd::engine::evaluate_function: "
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
COMMUNICATION, COPIES, WAITING = "communication", "copies", "waiting for data"
OVERHEAD = "between operations"
EXPLAINED = 1 / 3  # of its time that a bound must explain; below it, calling operations is the cost


@dataclass(frozen=True)
class Operation:
    """An operation that no other one called, or a kernel that it started.

    Attributes:
        name: of the operation.
        purpose: what it is for.
        start, seconds: on the trace's clock.
        flops, bytes: what it computes and moves; of an operation's kernels the first has them.
    """

    name: str
    purpose: str
    start: float
    seconds: float
    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Trace:
    """What is in a trace.

    Attributes:
        steps: when each step began and ended, seconds.
        operations: of all steps; on a GPU its kernels.
        waits: when the trainer waited for data.
        on_gpu: whether operations are kernels.
    """

    steps: list[Interval]
    operations: list[Operation]
    waits: list[Interval]
    on_gpu: bool

    def by_purpose(self) -> dict[str, list[float]]:
        """Seconds of every step by purpose, all of which sum to the step's own.

        Where communication and other operations run at once, the time is theirs: communication has
        what nothing else fills. What is left is `OVERHEAD`, of Python and of starting operations.
        """
        found: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(self.steps))
        sending: list[list[Interval]] = [[] for _ in self.steps]
        working: list[list[Interval]] = [[] for _ in self.steps]
        for operation in self.operations:
            number = self._step_of(operation.start)
            if number is None:
                continue
            interval = (operation.start, operation.start + operation.seconds)
            if operation.purpose == COMMUNICATION:
                sending[number].append(interval)
            else:
                working[number].append(interval)
                found[operation.purpose][number] += operation.seconds
        for interval in self.waits:
            number = self._step_of(interval[0])
            if number is not None:
                waited = length(without([interval], working[number]))
                found[WAITING][number] += waited
        for number, (start, end) in enumerate(self.steps):
            if any(sending):
                found[COMMUNICATION][number] = length(without(sending[number], working[number]))
            told = sum(seconds[number] for seconds in found.values())
            found[OVERHEAD][number] += max(0.0, end - start - told)
        return dict(found)

    def totals(self) -> dict[str, tuple[int, int, int]]:
        """Operations, FLOPs and bytes of all steps by purpose."""
        found: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        for operation in self.operations:
            count, flops, moved = found[operation.purpose]
            found[operation.purpose] = (count + 1, flops + operation.flops, moved + operation.bytes)
        return dict(found)

    def by_operation(self) -> dict[str, float]:
        """Seconds of a step, in the mean, by `<purpose>: <operation>`."""
        found: dict[str, float] = defaultdict(float)
        for operation in self.operations:
            name = f"{operation.purpose}: {operation.name.removeprefix('aten::')}"
            found[name] += operation.seconds / len(self.steps)
        return dict(found)

    def _step_of(self, moment: float) -> int | None:
        number = bisect.bisect(self.steps, (moment, float("inf"))) - 1
        return number if number >= 0 and moment < self.steps[number][1] else None


def read(path: Path) -> Trace:
    """The trace in a file; raises UserError where it is none, or of no whole step."""
    try:
        events = json.loads(path.read_text())["traceEvents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a trace of torch's profiler ({error})") from error
    return trace_of(events, path)


def trace_of(events: Iterable[Event], path: Path) -> Trace:
    """What is in the events of a trace."""
    spans = [event for event in events if event.get("ph") == "X"]
    steps = [_interval(e) for e in spans if e["name"] == STEP and e.get("cat") == "user_annotation"]
    if not steps:
        raise UserError(f"{path}: marks no steps, as those of benchmarks.profile_kernels do")
    waits = [_interval(e) for e in spans if e["name"] == "data" and e["cat"] == "user_annotation"]
    found = _Calls(spans)
    kernels = [event for event in spans if event.get("cat") in KERNELS]
    operations = found.kernels(kernels) if kernels else found.operations
    return Trace(sorted(steps), operations, waits, bool(kernels))


class _Calls:
    """Who called whom, read from how the events of each thread lie inside one another.

    Attributes:
        operations: those that no other one called.
    """

    def __init__(self, spans: Sequence[Event]) -> None:
        threads: dict[Any, list[Event]] = defaultdict(list)
        for event in spans:
            if event.get("cat") in ("cpu_op", "user_annotation"):
                threads[event.get("pid"), event.get("tid")].append(event)
        self.operations: list[Operation] = []
        self.outermost: dict[Any, Operation] = {}  # by the external id of all that it calls
        self._forward: dict[int, str] = {}  # purposes by autograd's sequence number
        # Threads of the backward pass begin after the forward pass that they look back to.
        for thread in sorted(threads.values(), key=lambda events: min(e["ts"] for e in events)):
            self._walk(sorted(thread, key=lambda event: (event["ts"], -event["dur"])))

    def _walk(self, events: Sequence[Event]) -> None:
        stack: list[Event] = []
        for place, event in enumerate(events):
            while stack and stack[-1]["ts"] + stack[-1]["dur"] <= event["ts"]:
                stack.pop()
            if _is_operation(event) and not any(map(_is_operation, stack)):
                self._add(event, stack, list(_inside(events, place)))
            elif purposes.is_communication(event["name"]):
                self._keep(event, COMMUNICATION, 0, 0)
            stack.append(event)

    def _add(self, event: Event, stack: Sequence[Event], inside: Sequence[Event]) -> None:
        purpose = self._purpose(stack)
        if not any(outer["name"].startswith(NODE) for outer in stack):
            # The last operation before autograd's number moves on is the one that has a gradient.
            # One that was written by hand has its number on the span around its operations.
            for each in (*stack, *inside):
                _put(self._forward, each, "Sequence number", purpose)
        flops = sum(purposes.flops(each["name"], each.get("args", {})) for each in inside)
        moved = purposes.bytes_moved(event["name"], event.get("args", {}))
        is_copy = event["name"] in purposes.COPIES
        operation = self._keep(event, COPIES if is_copy else purpose, flops, moved)
        for each in inside:
            _put(self.outermost, each, "External id", operation)

    def _keep(self, event: Event, purpose: str, flops: int, moved: int) -> Operation:
        start, end = _interval(event)
        operation = Operation(event["name"], purpose, start, end - start, flops, moved)
        self.operations.append(operation)
        return operation

    def _purpose(self, stack: Sequence[Event]) -> str:
        for outer in reversed(stack):
            if outer["name"].startswith(NODE):
                number = outer.get("args", {}).get("Sequence number")
                return self._forward.get(number, purposes.GRADIENTS)
            purpose = purposes.purpose_of_range(outer["name"])
            if purpose is not None:
                return purpose
        return "other"

    def kernels(self, kernels: Sequence[Event]) -> list[Operation]:
        """What a GPU did, for the operations that started it."""
        found, counted = [], set()
        for event in kernels:
            cause = self.outermost.get(event.get("args", {}).get("External id"))
            purpose = "other" if cause is None else cause.purpose
            if purposes.is_communication(event["name"]):
                purpose = COMMUNICATION
            elif event["name"].startswith(purposes.COPYING):
                purpose = COPIES
            name = event["name"] if cause is None else cause.name
            first = cause is not None and id(cause) not in counted
            counted.add(id(cause))
            work = (cause.flops, cause.bytes) if first else (0, 0)
            start, end = _interval(event)
            found.append(Operation(name, purpose, start, end - start, *work))
        return found


def _inside(events: Sequence[Event], place: int) -> Iterator[Event]:
    """An event of a thread, and those that began before it ended."""
    end = events[place]["ts"] + events[place]["dur"]
    while place < len(events) and events[place]["ts"] < end:
        yield events[place]
        place += 1


def _put(table: dict[Any, Any], event: Event, key: str, value: object) -> None:
    """File a value under a number of an event, if it has one."""
    number = event.get("args", {}).get(key)
    if number is not None:
        table[number] = value


def _is_operation(event: Event) -> bool:
    """Whether a span is of an operation, not of what only groups them."""
    name = event["name"]
    if event.get("cat") != "cpu_op" or "::" not in name or purposes.is_communication(name):
        return False
    return not name.startswith(("autograd::", "profiler::", "torch::"))


def _interval(event: Event) -> Interval:
    return event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6


def without(these: Iterable[Interval], those: Iterable[Interval]) -> list[Interval]:
    """What of the union of `these` intervals lies in none of `those`."""
    left = []
    covers = union(those)
    for start, end in union(these):
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
    """The same moments in intervals that are apart, in order."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def length(intervals: Iterable[Interval]) -> float:
    """The sum of their lengths."""
    return sum(end - start for start, end in intervals)


def bound(seconds: float, flops: float, moved: float, peak_flops: float, bandwidth: float) -> str:
    """What some work is bound by: `compute`, `memory` or `overhead`.

    The roofline (Williams et al. 2009): whichever of its FLOPs and its bytes would take longer at
    the device's best. Where even that is less than a third of the time, it is neither: operations
    are too small, or are called from Python too slowly.
    """
    computing, moving = flops / peak_flops, moved / bandwidth
    if max(computing, moving) < EXPLAINED * seconds:
        return "overhead"
    return "compute" if computing >= moving else "memory"
