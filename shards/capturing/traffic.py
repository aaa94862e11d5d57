"""Requests of one open page: queued by host, checked against robots.txt, counted and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any
from urllib.parse import SplitResult, urlsplit

from playwright.async_api import CDPSession
from playwright.async_api import Error as BrowserError

from shards.capturing.addresses import host_of
from shards.capturing.hosts import HostQueue
from shards.capturing.robots import Robots
from shards.capturing.targets import Target

MAX_PAGE_BYTES = 64 << 20  # received for one page; further requests fail
_IDLE_SECONDS = 0.5  # without a request: the network is idle
_UNNEEDED = ("Media", "Ping", "CSPViolationReport", "Prefetch")
"""Kinds of requests that change no layout; a video alone may be larger than a site."""


class Traffic:
    """The requests of one page, from before it is opened until it is closed.

    Every request waits for its host. A document is opened only if robots.txt allows it, also if a
    redirect or a script leads to it. A frame from another origin is a leaf of the layout, so it is
    not loaded. User and password are given only to the page's own host.

    Attributes:
        refusal: reason why the page's document was not opened; None if it was.
        status: HTTP status of the page's document; 0 if there was no answer.
    """

    def __init__(
        self, session: CDPSession, target: Target, *, hosts: HostQueue, robots: Robots
    ) -> None:
        self.refusal: str | None = None
        self.status = 0
        self._session, self._target = session, target
        self._hosts, self._robots = hosts, robots
        self._main_frame = ""
        self._is_open = False
        self._document = urlsplit(target.url)
        self._ended: dict[str, asyncio.Event] = {}  # open requests, by their id
        self._tasks: set[asyncio.Task] = set()
        self._authenticated: set[str] = set()  # a second challenge: the password is wrong
        self._bytes = 0
        self._last_change = time.monotonic()

    async def start(self) -> None:
        """Intercept all requests from now on."""
        on = self._session.on
        on("Fetch.requestPaused", lambda event: self._run(self._decide(event)))
        on("Fetch.authRequired", lambda event: self._run(self._authenticate(event)))
        on("Network.loadingFinished", self._end)
        on("Network.loadingFailed", self._end)
        on("Network.dataReceived", self._count)
        on("Network.responseReceived", self._note_status)
        on("Page.frameNavigated", self._note_document)
        await self._session.send("Page.enable")
        await self._session.send("Network.enable")
        tree = await self._session.send("Page.getFrameTree")
        self._main_frame = tree["frameTree"]["frame"]["id"]
        patterns = [{"urlPattern": "*", "requestStage": "Request"}]
        await self._session.send("Fetch.enable", {"patterns": patterns, "handleAuthRequests": True})

    def stop(self) -> None:
        """Free the hosts that this page's requests occupy."""
        for task in self._tasks:
            task.cancel()
        for ended in self._ended.values():
            ended.set()

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no request was open for half a second; return False after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self._ended and time.monotonic() - self._last_change >= _IDLE_SECONDS:
                return True
            await asyncio.sleep(0.05)
        return False

    def _run(self, coroutine: Coroutine) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, method: str, event: dict, **parameters: Any) -> None:
        with contextlib.suppress(BrowserError):  # the request was cancelled, or the page is closed
            await self._session.send(method, {"requestId": event["requestId"], **parameters})

    async def _decide(self, event: dict) -> None:
        network_id = event.get("networkId")
        if network_id is None:
            # A preflight request is a part of a request that occupies the host already.
            await self._send("Fetch.continueRequest", event)
            return
        self._end({"requestId": network_id})  # of a redirect: the former request has ended
        ended = self._ended[network_id] = asyncio.Event()
        self._last_change = time.monotonic()
        parts = urlsplit(event["request"]["url"])
        is_remote = parts.scheme in ("http", "https") and bool(parts.hostname)
        if await self._is_refused(event, parts):
            self._end({"requestId": network_id})
            # After "Aborted", unlike after other reasons, the former document stays.
            await self._send("Fetch.failRequest", event, errorReason="Aborted")
            return
        if is_remote:
            await self._hosts.hold(host_of(parts), ended)
        await self._send("Fetch.continueRequest", event)

    async def _is_refused(self, event: dict, parts: SplitResult) -> bool:
        kind = event.get("resourceType")
        if kind != "Document":
            return kind in _UNNEEDED or self._bytes > MAX_PAGE_BYTES
        if event.get("frameId") == self._main_frame:
            refusal = await self._robots.refusal(parts.geturl())
            if not self._is_open:
                self.refusal = refusal
            return refusal is not None
        if parts[:2] != self._document[:2]:
            return True  # a frame from another origin
        return await self._robots.refusal(parts.geturl()) is not None

    async def _authenticate(self, event: dict) -> None:
        known = self._target.credentials
        asking = event.get("authChallenge", {}).get("origin", "")
        own = urlsplit(self._target.url)
        is_own = known is not None and urlsplit(asking)[:2] == own[:2]
        network_id = event.get("networkId") or event["requestId"]
        answer: dict[str, str] = {"response": "CancelAuth"}
        if is_own and network_id not in self._authenticated:
            self._authenticated.add(network_id)
            answer = {
                "response": "ProvideCredentials",
                "username": known.user,
                "password": known.password,
            }
        await self._send("Fetch.continueWithAuth", event, authChallengeResponse=answer)

    def _note_document(self, event: dict) -> None:
        if event["frame"]["id"] == self._main_frame:
            self._document = urlsplit(event["frame"]["url"])
            self._is_open = self._is_open or self._document.scheme != "about"

    def _note_status(self, event: dict) -> None:
        is_page = event["type"] == "Document" and event.get("frameId") == self._main_frame
        if is_page and not self._is_open:
            self.status = event["response"]["status"]

    def _count(self, event: dict) -> None:
        self._bytes += event.get("encodedDataLength") or event.get("dataLength", 0)

    def _end(self, event: dict) -> None:
        ended = self._ended.pop(event["requestId"], None)
        if ended is not None:
            ended.set()
            self._last_change = time.monotonic()
