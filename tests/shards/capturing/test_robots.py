"""robots.txt: rules of RFC 9309, and hosts without or with an unreadable one."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.capturing.hosts import HostQueue
from shards.capturing.robots import AGENT, Robots, Rule, fetch_rules, parse_rules
from tests.support.site_server import Site

HOST = "https://a.example"


@pytest.fixture(scope="module")
def site():
    """Give a server with a robots.txt."""
    server = Site()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ("User-agent: *\nDisallow: /", "/x", False),
        ("User-agent: *\nDisallow:", "/x", True),
        ("user-agent : *\n disallow : /private # own", "/private/x", False),
        ("User-agent: *\nDisallow: /private", "/public", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/b/c", True),
        ("User-agent: *\nAllow: /p\nDisallow: /p", "/p", True),
        ("User-agent: *\nDisallow: /*?print", "/x?print=1", False),
        ("User-agent: *\nDisallow: /*.php$", "/x.php", False),
        ("User-agent: *\nDisallow: /*.php$", "/x.php5", True),
        ("User-agent: *\nDisallow: /x$", "/x", False),
        ("User-agent: *\nDisallow: /x$", "/xy", True),
        ("User-agent: *\nDisallow: /caf%C3%A9", "/café", False),
        ("User-agent: *\nDisallow: /café", "/caf%C3%A9", False),
        (f"User-agent: {AGENT}\nDisallow: /x\n\nUser-agent: *\nDisallow: /", "/y", True),
        (f"User-agent: *\nDisallow: /\n\nUser-agent: {AGENT.upper()}\nDisallow: /x", "/x", False),
        (f"User-agent: other\nUser-agent: {AGENT}\nDisallow: /x", "/x", False),
        ("User-agent: other\nDisallow: /", "/x", True),
        ("User-agent: other\nDisallow: /\nUser-agent: *\nDisallow: /y", "/x", True),
        ("Disallow: /", "/x", True),
        ("<html>not found</html>", "/x", True),
        ("", "/x", True),
    ],
)
def test_the_longest_rule_of_the_own_group_decides(rules, path, allowed):
    assert parse_rules(rules).allow(HOST + path) is allowed


def test_the_delay_between_pages_is_read():
    assert parse_rules("User-agent: *\nCrawl-delay: 2.5").crawl_delay == 2.5
    assert parse_rules("User-agent: *\nCrawl-delay: soon\nCrawl-delay: -1").crawl_delay == 0
    assert parse_rules("User-agent: *\nCrawl-delay: nan").crawl_delay == 0


@given(st.text(max_size=400))
def test_any_text_is_read_and_answered(text):
    rules = parse_rules(f"User-agent: *\nDisallow: {text}")
    assert rules.allow(HOST) in (True, False)
    assert 0 <= parse_rules(text).crawl_delay <= 3600


@given(st.text("ab/", max_size=12), st.lists(st.text("ab/", max_size=3), min_size=1, max_size=4))
def test_stars_match_as_an_exhaustive_search_says(path, pieces):
    def matches(text: str, rest: tuple[str, ...], *, anchored: bool) -> bool:
        if not rest:
            return not anchored or text == ""
        return any(
            text[at:].startswith(rest[0])
            and matches(text[at + len(rest[0]) :], rest[1:], anchored=anchored)
            for at in range(len(text) + 1)
        )

    for anchored in (False, True):
        expected = path.startswith(pieces[0]) and (
            matches(path[len(pieces[0]) :], tuple(pieces[1:]), anchored=anchored)
        )
        assert Rule(tuple(pieces), anchored, 1, False).matches(path) is expected


def test_a_rule_of_many_stars_is_answered_at_once():
    rules = parse_rules("User-agent: *\nDisallow: /" + "*a" * 5000 + "b")
    start = time.monotonic()
    assert rules.allow(HOST + "/" + "a" * 20_000)
    assert time.monotonic() - start < 2


def test_rules_are_fetched_once_for_each_host(site):
    async def ask() -> list[str | None]:
        robots = Robots(HostQueue())
        paths = ("plain.html", "private.html", "x?print")
        return await asyncio.gather(*(robots.refusal(site.url(path)) for path in paths))

    name = f"127.0.0.1:{site.port}"
    forbidden = f"robots.txt of {name} forbids it"
    assert asyncio.run(ask()) == [None, forbidden, forbidden]
    assert site.paths() == ["/robots.txt"]


def test_files_have_no_rules():
    assert asyncio.run(Robots(HostQueue()).refusal("file:///x.html")) is None


def test_a_host_that_cannot_be_reached_has_its_pages_refused():
    rules = fetch_rules("http://127.0.0.1:9")
    assert "refused" in rules.unreadable
    assert not rules.allow("http://127.0.0.1:9/")
