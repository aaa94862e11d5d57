"""Chromium: found, started without a window, and started again after it ended or hung."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, Playwright
from playwright.async_api import Error as BrowserError

from shards.capturing.memory import MemoryWatch
from shards.errors import UserError, one_line

_COMMANDS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_CLOSE_SECONDS = 10.0


def find_browser(named: Path | None, own: str) -> str:
    """Return the path of the Chromium to start.

    Args:
        named: path given by the user.
        own: place of the Chromium that `playwright install` downloads.

    Raises UserError, with the commands that install one, if there is none.
    """
    if named is not None:
        if not (named.is_file() and os.access(named, os.X_OK)):
            raise UserError(f"{named}: is no program; --browser names the program of Chromium")
        return str(named)
    if Path(own).is_file():
        return own
    for command in _COMMANDS:
        if path := shutil.which(command):
            return path
    raise UserError(
        "no Chromium found; install one with: apt-get install chromium (Debian, Ubuntu), or: "
        "playwright install chromium"
    )


@dataclass
class RunningBrowser:
    """A started Chromium.

    users: number of pages that are open in it.
    is_hung: a page could not be closed, so the browser is not used for further pages.
    """

    browser: Browser
    memory: MemoryWatch
    users: int = 0
    is_hung: bool = field(default=False)

    @property
    def is_usable(self) -> bool:
        """True if new pages can be opened."""
        return self.browser.is_connected() and not self.is_hung

    async def close(self) -> None:
        """End the browser and its processes."""
        self.memory.stop()
        with contextlib.suppress(BrowserError, asyncio.TimeoutError):
            await asyncio.wait_for(self.browser.close(), _CLOSE_SECONDS)


class BrowserStarter:
    """The browser in use, replaced if it ends or hangs.

    Args:
        playwright: a started Playwright.
        path: the program, of `find_browser`.
        memory_mb: limit of the process of a page, MiB.
        sandbox: use Chromium's sandbox; it cannot run as root.
    """

    def __init__(self, playwright: Playwright, path: str, *, memory_mb: int, sandbox: bool) -> None:
        self._playwright, self._path = playwright, path
        self._memory_mb, self._sandbox = memory_mb, sandbox
        self._lock = asyncio.Lock()
        self._current: RunningBrowser | None = None

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[RunningBrowser]:
        """Give a usable browser for one page; raise UserError if none can be started."""
        async with self._lock:
            if self._current is None or not self._current.is_usable:
                await self._close_unused(self._current)
                self._current = await self._start()
            running = self._current
            running.users += 1
        try:
            yield running
        finally:
            running.users -= 1
            if not running.is_usable:
                await self._close_unused(running)

    async def close(self) -> None:
        """End the browser in use."""
        if self._current is not None:
            await self._current.close()

    async def _close_unused(self, running: RunningBrowser | None) -> None:
        if running is not None and running.users == 0:
            await running.close()

    async def _start(self) -> RunningBrowser:
        arguments = [
            "--disable-dev-shm-usage",  # /dev/shm of a container is often too small
            f"--js-flags=--max-old-space-size={self._memory_mb}",
        ]
        try:
            browser = await self._playwright.chromium.launch(
                executable_path=self._path,
                args=arguments,
                chromium_sandbox=self._sandbox,
                # The command ends the browser itself, after the pages of Ctrl-C are closed.
                handle_sigint=False,
                handle_sigterm=False,
                handle_sighup=False,
            )
            memory = MemoryWatch(await browser.new_browser_cdp_session(), self._memory_mb)
        except BrowserError as error:
            raise UserError(f"{self._path}: does not start ({_first_cause(str(error))})") from None
        memory.start()
        return RunningBrowser(browser, memory)


def _first_cause(text: str) -> str:
    """Return the reason in Playwright's message, which has the browser's whole log."""
    if "No usable sandbox" in text or "setuid sandbox" in text:
        return "it cannot make its sandbox; --no-sandbox starts it without, for trusted pages only"
    for line in text.splitlines():
        if "error while loading" in line or "FATAL" in line:
            return one_line(line.strip()[:200])
    return "it ended at once; --browser must name the program of Chromium"
