"""Limit on the memory of a page: the process of a page above it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from playwright.async_api import CDPSession
from playwright.async_api import Error as BrowserError

_PERIOD = 0.25  # s; a page can allocate a few hundred MB in it
_RECENT = 3.0  # s


class MemoryWatch:
    """Watch over the processes of a browser's pages, from `start` to `stop`.

    Resident memory is read from /proc. Where there is none, only the heap of JavaScript is limited,
    by a flag of the browser.
    """

    def __init__(self, session: CDPSession, limit_mb: int) -> None:
        self._session, self._limit = session, limit_mb << 20
        self._killed_at = -_RECENT
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Start watching."""
        self._task = asyncio.ensure_future(self._watch())

    def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()

    @property
    def has_just_killed(self) -> bool:
        """True if the process of a page was killed a moment ago."""
        return time.monotonic() - self._killed_at < _RECENT

    async def _watch(self) -> None:
        try:
            while True:
                await asyncio.sleep(_PERIOD)
                found = await self._session.send("SystemInfo.getProcessInfo")
                for process in found["processInfo"]:
                    is_page = process["type"] == "renderer"
                    if is_page and resident_bytes(process["id"]) > self._limit:
                        self._killed_at = time.monotonic()
                        kill(process["id"])
        except BrowserError:
            return  # the browser has ended


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 if there is none or no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def kill(pid: int) -> None:
    """Kill a process; one that has ended is ignored."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
