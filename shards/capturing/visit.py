"""Visit of one page at one width: opened, loaded, scrolled, settled and measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from playwright.async_api import BrowserContext, CDPSession, Dialog, Page, Response
from playwright.async_api import Error as BrowserError
from playwright.async_api import TimeoutError as BrowserTimeout

from shards.capturing.browser import RunningBrowser
from shards.capturing.hosts import HostQueue
from shards.capturing.record import make_record
from shards.capturing.robots import AGENT, Robots
from shards.capturing.targets import Target
from shards.capturing.traffic import Traffic
from shards.errors import one_line
from shards.format.layout import BadLayout

WALKER = files("shards.capturing").joinpath("walker.js").read_text(encoding="utf-8")
_HTML = ("text/html", "application/xhtml+xml")
_NO_POPUPS = "window.open = () => null; window.print = () => {};"
_PHONE_WIDTH, _PHONE_HEIGHT, _DESKTOP_HEIGHT = 600, 844, 800  # px; as in the sample
_FRAMES = 12  # without a change: the layout has settled
_PAUSE = 80  # ms after each step of scrolling
_NAVIGATIONS = 3  # of a page by itself while it is measured
_CLOSE_SECONDS = 5.0
_CRASH_SECONDS = 0.5  # until the events of a crash have arrived


class Skipped(Exception):
    """A page that is not captured; the message is the reason."""


class BrowserEnded(Exception):
    """The browser ended while the page was open, perhaps because of another page."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one visit.

    seconds: of the whole visit; parts of it bound loading, scrolling and settling.
    max_height: rows of a page that are captured, CSS px.
    max_elements: of a page; one with more is skipped.
    """

    seconds: float = 60.0
    max_height: int = 6000
    max_elements: int = 100_000

    @property
    def load_seconds(self) -> float:
        """Time for the document and what it loads; then it is measured as it is."""
        return self.seconds / 4

    @property
    def idle_seconds(self) -> float:
        """Time to wait for the network to be idle, before and after scrolling."""
        return min(5.0, self.seconds / 8)

    @property
    def scroll_seconds(self) -> float:
        """Time for scrolling."""
        return min(10.0, self.seconds / 6)

    @property
    def settle_seconds(self) -> float:
        """Time to wait for a layout without changes."""
        return min(3.0, self.seconds / 12)


@dataclass(frozen=True)
class Visit:
    """A captured page.

    record: the page in the compact schema.
    is_whole: False if the page was still loading or changing when it was measured.
    """

    record: dict[str, Any]
    is_whole: bool


async def visit_page(
    running: RunningBrowser,
    target: Target,
    width: int,
    *,
    limits: Limits,
    hosts: HostQueue,
    robots: Robots,
) -> Visit:
    """Capture a page in a window of `width` px, in a browser context of its own.

    Raises Skipped with the reason if the page is not captured, and BrowserEnded.
    """
    crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    context = traffic = work = None
    try:
        context = await _new_context(running, width)
        page = await context.new_page()
        page.on("crash", lambda _: crashed.done() or crashed.set_result(None))
        page.on("dialog", lambda dialog: asyncio.ensure_future(_dismiss(dialog)))
        context.on("page", lambda other: asyncio.ensure_future(_close(other)))
        session = await context.new_cdp_session(page)
        traffic = Traffic(session, target, hosts=hosts, robots=robots)
        await traffic.start()
        work = asyncio.ensure_future(_measure(page, session, traffic, target, width, limits))
        await asyncio.wait(
            {work, crashed}, timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if crashed.done():
            await asyncio.sleep(_CRASH_SECONDS)  # a browser that ends crashes its tabs first
            if not running.browser.is_connected():
                raise BrowserEnded
            reason = "used too much memory" if running.memory.has_just_killed else "crashed its tab"
            raise Skipped(reason)
        if not work.done():
            raise Skipped(f"was not finished after {limits.seconds:g} s")
        return work.result()
    except BadLayout as error:
        raise Skipped(str(error)) from None
    except BrowserError as error:
        # The event of a crash arrives after the errors that it causes.
        await asyncio.wait({crashed}, timeout=_CRASH_SECONDS)
        if not running.browser.is_connected():
            raise BrowserEnded from None
        if crashed.done():
            raise Skipped("crashed its tab") from None
        raise Skipped(_reason_of(error)) from None
    finally:
        crashed.cancel()
        if work is not None:
            work.cancel()
            await asyncio.wait({work})
        if traffic is not None:
            traffic.stop()
        if context is not None:
            await _close_context(running, context)


async def _new_context(running: RunningBrowser, width: int) -> BrowserContext:
    version = running.browser.version.partition(".")[0]
    height = _PHONE_HEIGHT if width < _PHONE_WIDTH else _DESKTOP_HEIGHT
    context = await running.browser.new_context(
        viewport={"width": width, "height": height},
        user_agent=f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{version}.0.0.0 Safari/537.36 {AGENT}",
        accept_downloads=False,
        service_workers="block",
        reduced_motion="reduce",
        locale="en-US",
    )
    await context.add_init_script(_NO_POPUPS)
    return context


async def _close_context(running: RunningBrowser, context: BrowserContext) -> None:
    """Close a page; a browser that cannot is not used for further pages."""
    try:
        await asyncio.wait_for(context.close(), _CLOSE_SECONDS)
    except asyncio.TimeoutError:
        running.is_hung = True
    except BrowserError:
        return  # closed already, with its browser


async def _dismiss(dialog: Dialog) -> None:
    with contextlib.suppress(BrowserError):
        await dialog.dismiss()


async def _close(page: Page) -> None:
    with contextlib.suppress(BrowserError):
        await page.close()


async def _measure(
    page: Page,
    session: CDPSession,
    traffic: Traffic,
    target: Target,
    width: int,
    limits: Limits,
) -> Visit:
    is_loaded = await _load(page, traffic, target, limits)
    for attempt in range(_NAVIGATIONS):
        try:
            return await _walk(session, traffic, target, width, limits, is_loaded)
        except BrowserError:
            # The page went to another one by itself, which ends the scripts of the former.
            if page.is_closed() or attempt == _NAVIGATIONS - 1:
                raise
            await _wait_for_load(page, limits.load_seconds)
    raise AssertionError("unreachable")


async def _load(page: Page, traffic: Traffic, target: Target, limits: Limits) -> bool:
    """Open a page; return False if it is still loading when the time for it has passed."""
    try:
        response = await page.goto(
            target.url, wait_until="commit", timeout=1000 * limits.load_seconds
        )
    except BrowserTimeout:
        raise Skipped(f"sent no page within {limits.load_seconds:g} s") from None
    except BrowserError:
        # An error without a text has a status, but no page.
        reason = traffic.refusal or _http_error(traffic.status)
        if reason is None:
            raise
        raise Skipped(reason) from None
    if response is not None:
        _check_response(response)
    is_loaded = await _wait_for_load(page, limits.load_seconds)
    return await traffic.wait_until_idle(limits.idle_seconds) and is_loaded


def _http_error(status: int) -> str | None:
    if status == 401:
        return "HTTP 401; give user and password as https://user:password@host/"
    return f"HTTP {status}" if status >= 400 else None


def _check_response(response: Response) -> None:
    if reason := _http_error(response.status):
        raise Skipped(reason)
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type and content_type not in _HTML:
        raise Skipped(f"is {one_line(content_type[:80])}, not HTML")


async def _wait_for_load(page: Page, seconds: float) -> bool:
    try:
        await page.wait_for_load_state("load", timeout=1000 * seconds)
    except BrowserTimeout:
        return False
    return True


async def _walk(
    session: CDPSession,
    traffic: Traffic,
    target: Target,
    width: int,
    limits: Limits,
    is_loaded: bool,
) -> Visit:
    walker = await Walker.start(session)
    await walker.call(
        "scroll", maxHeight=limits.max_height, seconds=limits.scroll_seconds, pause=_PAUSE
    )
    is_idle = await traffic.wait_until_idle(limits.idle_seconds)
    await walker.call("freeze", maxElements=limits.max_elements)
    is_settled = await walker.call(
        "settle", frames=_FRAMES, seconds=limits.settle_seconds, maxElements=2000
    )
    walked = await walker.call("walk", maxHeight=limits.max_height, maxElements=limits.max_elements)
    return Visit(make_record(target, width, walked), is_loaded and is_idle and bool(is_settled))


class Walker:
    """`walker.js` in an isolated world of a page, whose scripts cannot change its functions."""

    def __init__(self, session: CDPSession, world: int) -> None:
        self._session, self._world = session, world

    @classmethod
    async def start(cls, session: CDPSession) -> Walker:
        """Make the world in the page's present document."""
        tree = await session.send("Page.getFrameTree")
        world = await session.send(
            "Page.createIsolatedWorld",
            {"frameId": tree["frameTree"]["frame"]["id"], "worldName": "shards.capture"},
        )
        return cls(session, world["executionContextId"])

    async def call(self, function: str, **arguments: float) -> Any:
        """Return the value of a function of `walker.js`."""
        answer = await self._session.send(
            "Runtime.evaluate",
            {
                "expression": f"({WALKER.strip()}).{function}({json.dumps(arguments)})",
                "contextId": self._world,
                "awaitPromise": True,
                "returnByValue": True,
            },
        )
        if "exceptionDetails" in answer:
            raise Skipped("cannot be measured; it is no HTML document")
        return answer["result"].get("value")


def _reason_of(error: BrowserError) -> str:
    """Return a reason without the address, which may hold secrets."""
    text = str(error)
    if "Download is starting" in text:
        return "is a download"
    if code := re.search(r"net::(ERR_\w+)", text):
        return f"cannot be opened ({code[1]})"
    if re.search(r"navigat|context|collected", text, re.IGNORECASE):
        return "goes to other pages again and again"
    return "ended unexpectedly"
