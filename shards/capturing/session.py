"""Capture of many pages: several at a time, but one at a time of each host."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import async_playwright

from shards.capturing.browser import BrowserStarter, find_browser
from shards.capturing.hosts import HostQueue
from shards.capturing.output import OutputFile
from shards.capturing.record import page_id
from shards.capturing.robots import Robots
from shards.capturing.targets import Target
from shards.capturing.visit import BrowserEnded, Limits, Skipped, Visit, visit_page

_ATTEMPTS = 2  # to open a page whose browser ends; another page may have been the cause


@dataclass(frozen=True)
class CaptureOptions:
    """Settings of a capture.

    widths: of the window, CSS px; each gives a layout.
    pages_at_once: number of pages open at the same time.
    memory_mb: limit of the process of a page, MiB.
    browser: program of Chromium; None: the first that is found.
    sandbox: use Chromium's sandbox, except as root, where it cannot run.
    """

    widths: tuple[int, ...] = (1280, 390)
    pages_at_once: int = 4
    limits: Limits = field(default_factory=Limits)
    memory_mb: int = 1500
    browser: Path | None = None
    sandbox: bool = True


@dataclass
class Summary:
    """Result of a capture, in layouts: a page at one width.

    present: those that were in the output before.
    unfinished: captured while the page was still loading or changing.
    skipped: number of layouts by reason.
    """

    captured: int = 0
    present: int = 0
    unfinished: int = 0
    skipped: Counter = field(default_factory=Counter)


async def capture_targets(
    targets: Sequence[Target],
    output: OutputFile,
    options: CaptureOptions,
    report: Callable[[str], None],
) -> Summary:
    """Capture all pages that are not in the output, and append them to it.

    Args:
        report: called once for each layout that is skipped, with its id and the reason, and with ""
            for each that is captured.

    Raises UserError if no browser can be started, and CannotWrite.
    """
    summary = Summary()
    groups = _groups(targets, output, options, summary)
    if not groups:
        return summary
    hosts = HostQueue()
    robots = Robots(hosts)

    async def work(browsers: BrowserStarter) -> None:
        while groups:
            for number, (target, width) in enumerate(groups.pop()):
                if number and target.host is not None:
                    await asyncio.sleep((await robots.rules_of(target.url)).crawl_delay)
                try:
                    visit = await _visit(browsers, target, width, options.limits, hosts, robots)
                except Skipped as error:
                    summary.skipped[str(error)] += 1
                    report(f"skipped {page_id(target, width)}: {error}")
                else:
                    output.append(visit.record)
                    summary.captured += 1
                    summary.unfinished += not visit.is_whole
                    report("")

    async with _browsers(options) as browsers:
        workers = [
            asyncio.ensure_future(work(browsers))
            for _ in range(min(options.pages_at_once, len(groups)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
    return summary


def _groups(
    targets: Sequence[Target], output: OutputFile, options: CaptureOptions, summary: Summary
) -> list[list[tuple[Target, int]]]:
    """Return the layouts to capture, those of one host together; the last group is taken first."""
    groups: dict[str, list[tuple[Target, int]]] = defaultdict(list)
    for target in targets:
        for width in options.widths:
            if page_id(target, width) in output.ids:
                summary.present += 1
            else:
                groups[target.host or f"{target.url} {width}"].append((target, width))
    return list(groups.values())[::-1]


@contextlib.asynccontextmanager
async def _browsers(options: CaptureOptions) -> AsyncIterator[BrowserStarter]:
    async with async_playwright() as playwright:
        browsers = BrowserStarter(
            playwright,
            find_browser(options.browser, playwright.chromium.executable_path),
            memory_mb=options.memory_mb,
            sandbox=options.sandbox and os.geteuid() != 0,
        )
        try:
            yield browsers
        finally:
            await browsers.close()


async def _visit(
    browsers: BrowserStarter,
    target: Target,
    width: int,
    limits: Limits,
    hosts: HostQueue,
    robots: Robots,
) -> Visit:
    for _ in range(_ATTEMPTS):
        async with browsers.use() as running:
            try:
                return await visit_page(
                    running, target, width, limits=limits, hosts=hosts, robots=robots
                )
            except BrowserEnded:
                continue
    raise Skipped("the browser ended each time it was opened")
