"""Requests to hosts, one at a time to each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

HOLD_SECONDS = 5.0  # a response that does not end blocks its host no longer


class HostQueue:
    """Queue of requests of each host.

    A request occupies its host until its response has ended, at most for `hold_seconds`: an endless
    response, such as a stream of events, would otherwise stop every page of that host.
    """

    def __init__(self, hold_seconds: float = HOLD_SECONDS) -> None:
        self._hold_seconds = hold_seconds
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task] = set()  # the event loop itself holds tasks weakly

    @contextlib.asynccontextmanager
    async def request(self, host: str) -> AsyncIterator[None]:
        """Occupy a host during a request that ends by itself."""
        async with self._locks[host]:
            yield

    async def hold(self, host: str, ended: asyncio.Event) -> None:
        """Wait until a host is free; then occupy it in the background until `ended` is set."""
        lock = self._locks[host]
        await lock.acquire()
        if ended.is_set():
            lock.release()
            return
        task = asyncio.ensure_future(self._release(lock, ended))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release(self, lock: asyncio.Lock, ended: asyncio.Event) -> None:
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), self._hold_seconds)
        finally:
            lock.release()
