"""Work spread over processes, with a bounded amount of it under way."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from shards.lifetime import die_with_parent

_AHEAD = 4  # pieces of work under way for each process

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")


class Workers:
    """Applies functions to streams of work, in other processes if there are several workers."""

    def __init__(self, executor: Executor | None, count: int) -> None:
        self._executor = executor
        self._ahead = count * _AHEAD

    def map(self, function: Callable[[_Work], _Result], work: Iterable[_Work]) -> Iterator[_Result]:
        """The results in the order of the work, which is taken only as fast as it is done."""
        if self._executor is None:
            yield from map(function, work)
            return
        pending = deque()
        for item in work:
            pending.append(self._executor.submit(function, item))
            if len(pending) >= self._ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def start_workers(count: int) -> Iterator[Workers]:
    """`count` worker processes, or this one alone if `count` is 1.

    They are spawned, for a fork of a process with threads (torch's, the caller's) may hang.
    """
    if count == 1:
        yield Workers(None, 1)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker)
    try:
        yield Workers(executor, count)
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches the whole terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
