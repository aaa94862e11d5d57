"""Worker processes of a build, with a bounded number of submitted pieces of work."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from shards.errors import UserError
from shards.lifetime import die_with_parent

_AHEAD = 4  # pieces of work submitted ahead for each process

_Work = TypeVar("_Work")
_Result = TypeVar("_Result")


class Workers:
    """Pool that applies functions to streams of work; in this process if there is one worker."""

    def __init__(self, executor: Executor | None, count: int) -> None:
        self._executor = executor
        self._ahead = count * _AHEAD

    def map(self, function: Callable[[_Work], _Result], work: Iterable[_Work]) -> Iterator[_Result]:
        """Yield the results in the order of the work; work is consumed as fast as it is done."""
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
    """Start `count` worker processes and stop them at the end; with a count of 1 start none.

    They are spawned: a forked child of a process with threads (torch's, the caller's) may hang.

    Raises UserError if the processes' semaphores cannot be made.
    """
    if count == 1:
        yield Workers(None, 1)
        return
    context = multiprocessing.get_context("spawn")
    try:
        executor = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker)
    except OSError as error:
        raise UserError(
            "worker processes need semaphores in /dev/shm, which cannot be made there "
            f"({error.strerror}); make it writable with some space, or use --workers 1"
        ) from error
    try:
        yield Workers(executor, count)
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C is sent to all processes of the terminal; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
