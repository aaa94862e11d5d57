"""robots.txt: rules of a host (RFC 9309), fetched once.

Python's `urllib.robotparser` knows neither `*` and `$` in paths nor that the longest rule decides,
so pages that a site forbids would be opened.
"""

from __future__ import annotations

import asyncio
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import quote, unquote_to_bytes, urlsplit

from shards.capturing.addresses import host_of
from shards.capturing.hosts import HostQueue

AGENT = "vaetrain-capture"  # name of this program in robots.txt and in its requests
_MAX_BYTES = 500 << 10  # RFC 9309 asks for at least 500 KiB
_SECONDS = 10.0
_FIELD = re.compile(r"\s*(user-agent|allow|disallow|crawl-delay)\s*:\s*([^#]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Rule:
    """One line "allow" or "disallow".

    pieces: the path between its stars.
    anchored: the path ends with "$", so it must match to the end.
    length: characters of the path; the longest rule decides.
    """

    pieces: tuple[str, ...]
    anchored: bool
    length: int
    allow: bool

    def matches(self, path: str) -> bool:
        """Return whether a path fits; in time proportional to its length and the pieces."""
        first, *others = self.pieces
        if not path.startswith(first):
            return False
        at = len(first)
        last = others.pop() if others and self.anchored else None
        for piece in others:
            at = path.find(piece, at)
            if at < 0:
                return False
            at += len(piece)
        if last is not None:
            return path.endswith(last) and len(path) - len(last) >= at
        return not self.anchored or at == len(path)


@dataclass(frozen=True)
class Rules:
    """The rules of one host that apply to this program.

    crawl_delay: seconds to wait between two pages.
    unreadable: reason why robots.txt could not be read; nothing may be opened then.
    """

    rules: tuple[Rule, ...] = ()
    crawl_delay: float = 0.0
    unreadable: str | None = None

    def allow(self, url: str) -> bool:
        """Return whether a page may be opened: the longest rule decides, of equal ones "allow"."""
        if self.unreadable:
            return False
        parts = urlsplit(url)
        path = _normalised(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        matching = [(rule.length, rule.allow) for rule in self.rules if rule.matches(path)]
        return max(matching, default=(0, True))[1]


def parse_rules(text: str, agent: str = AGENT) -> Rules:
    """Return the rules for a program in the text of a robots.txt; faulty lines are ignored."""
    groups: dict[str, list[tuple[str, str]]] = {}
    names: list[str] = []
    in_rules = False
    for line in text.splitlines():
        match = _FIELD.match(line)
        if match is None:
            continue
        field, value = match[1].lower(), match[2].strip()
        if field == "user-agent":
            names = [*(() if in_rules else names), value.lower()]
            groups.setdefault(value.lower(), [])
        else:
            for name in names:
                groups[name].append((field, value))
        in_rules = field != "user-agent"
    own = [name for name in groups if name and name != "*" and agent.lower().startswith(name)]
    chosen = groups[max(own, key=len)] if own else groups.get("*", [])
    rules = [
        _rule(value, field == "allow")
        for field, value in chosen
        if field in ("allow", "disallow") and value.startswith(("/", "*"))
    ]
    delays = [_seconds(value) for field, value in chosen if field == "crawl-delay"]
    return Rules(tuple(rules), max(delays, default=0.0))


def _rule(path: str, allow: bool) -> Rule:
    pieces = tuple(_normalised(piece) for piece in path.removesuffix("$").split("*"))
    return Rule(pieces, path.endswith("$"), len(path), allow)


def _normalised(path: str) -> str:
    return quote(unquote_to_bytes(path), safe="/?&=:;,@!()'+~")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return min(seconds, 3600.0) if seconds > 0 else 0.0  # 0 for NaN, too


def fetch_rules(origin: str) -> Rules:
    """Return the rules of an origin such as `https://host`.

    A client error means that there are no rules. If a server fails or cannot be reached, nothing
    may be opened (RFC 9309, 2.3.1).
    """
    request = urllib.request.Request(f"{origin}/robots.txt", headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return parse_rules(response.read(_MAX_BYTES).decode("utf-8-sig", "replace"))
    except urllib.error.HTTPError as error:
        error.close()
        if 400 <= error.code < 500:
            return Rules()
        return Rules(unreadable=f"HTTP {error.code}")
    except urllib.error.URLError as error:
        return Rules(unreadable=str(error.reason))
    except (OSError, HTTPException, ValueError) as error:
        return Rules(unreadable=str(error) or type(error).__name__)


class Robots:
    """The rules of all hosts, fetched when a host is first needed."""

    def __init__(self, hosts: HostQueue) -> None:
        self._hosts = hosts
        self._rules: dict[str, asyncio.Future[Rules]] = {}

    async def rules_of(self, url: str) -> Rules:
        """Return the rules of a http or https address's host."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{host_of(parts)}"
        if origin not in self._rules:
            self._rules[origin] = asyncio.ensure_future(self._fetch(origin, host_of(parts)))
        # One page that gives up waiting must not cancel the request for the others.
        return await asyncio.shield(self._rules[origin])

    async def _fetch(self, origin: str, host: str) -> Rules:
        async with self._hosts.request(host):
            return await asyncio.to_thread(fetch_rules, origin)

    async def refusal(self, url: str) -> str | None:
        """Return the reason why a page must not be opened; None if it may be."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            return None
        rules = await self.rules_of(url)
        if rules.unreadable:
            return f"robots.txt of {host_of(parts)} cannot be read ({rules.unreadable})"
        return None if rules.allow(url) else f"robots.txt of {host_of(parts)} forbids it"
