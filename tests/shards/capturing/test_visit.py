"""Pages in Chromium: specimens served on the loopback, each with one difficulty."""

from __future__ import annotations

import gzip
import re

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.layout import parse_layout
from tests.support.capturing import boxes_of, capture, records_of
from tests.support.chromium import needs_chromium
from tests.support.site_server import PASSWORD, USER, Site

pytestmark = [needs_chromium, pytest.mark.slow]  # `specimens` takes about a minute


@pytest.fixture(scope="module")
def site():
    """Give the server of the specimens."""
    server = Site()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def specimens(site, tmp_path_factory) -> dict[str, dict]:
    """Return the records of all specimens, captured together."""
    out = tmp_path_factory.mktemp("capture") / "out.jsonl.gz"
    names = (
        "gallery",
        *("contents", "transforms", "rtl", "shadow", "frames", "lazy", "endless", "dialogs"),
        *("restless", "crash", "busy", "changed-builtins", "forwards", "deep", "never-ends"),
        *(
            "silent",
            "moved",
            "moved-to-private",
            "private",
            "locked",
            "missing",
            "blank",
            "reloads",
        ),
    )
    urls = [site.url(f"{name}.html") for name in names]
    urls += [site.url("file.bin"), site.url("data.json")]
    # Two names of one server are two hosts.
    urls.insert(0, site.url("gallery.html", "localhost"))
    urls.append(site.url("locked.html", f"{USER}:{PASSWORD}@localhost"))
    limits = ("--seconds", "16", "--memory-mb", "400", "--widths", "800")
    printed = capture(out, *urls, *limits)
    found = {name.partition(".html")[0]: record for name, record in records_of(out).items()}
    text = gzip.decompress(out.read_bytes()).decode() + printed
    return found | {"text": text, "out": out}


def reason(specimens: dict, name: str) -> str:
    """Return the printed reason why a page was skipped."""
    (line,) = (line for line in specimens["text"].splitlines() if f"/{name}-800: " in line)
    return line.partition("-800: ")[2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "contents",
            [
                ("section", 0, 0, 300, 80),
                ("article", 0, 0, 100, 80),
                ("aside", 100, 0, 200, 80),
                (None, 0, 80, 800, 30),
                ("button", 0, 80, 200, 30),
                (None, 0, 2110, 800, 77),
                ("text", 0, 2110, 77, 77),
            ],
        ),
        (
            "transforms",
            [
                ("figure", 100, 100, 200, 100),
                ("image", 100, 100, 80, 40),
                ("figure", 125, 375, 50, 100),
                ("figure", 100, 600, 100, 50),
                ("figure", 100, 720, 100, 50),
                (None, 100, 720, 100, 30),
            ],
        ),
        (
            "rtl",
            [
                (None, 0, 0, 800, 90),
                ("item", 700, 0, 100, 40),
                ("item", 600, 0, 100, 40),
                (None, 0, 40, 800, 50),
            ],
        ),
        (
            "shadow",
            [
                (None, 0, 0, 800, 100),
                ("section", 0, 0, 400, 100),
                ("nav", 0, 0, 300, 30),
                ("button", 0, 30, 250, 45),
            ],
        ),
        (
            "lazy",
            [
                (None, 0, 0, 222, 44),
                ("image", 0, 3044, 321, 123),
                (None, 0, 3167, 222, 44),
            ],
        ),
        (
            "frames",
            [
                ("frame", 50, 100, 310, 210),
                (None, 55, 105, 300, 200),
                (None, 55, 115, 300, 190),
                ("article", 65, 115, 100, 190),
                ("aside", 315, 105, 40, 40),
                ("frame", 55, 225, 50, 30),
                (None, 55, 235, 50, 20),
                ("article", 65, 235, 40, 20),
                ("aside", 65, 225, 40, 30),
                ("frame", 50, 400, 310, 110),
                (None, 55, 405, 300, 60),
                ("table", 55, 405, 60, 60),
                ("frame", 50, 600, 310, 110),
            ],
        ),
    ],
)
def test_the_boxes_of_a_specimen_are_those_that_are_seen(name, expected, specimens):
    assert boxes_of(specimens[f"{name}"])[1:] == expected


def test_an_endless_page_is_cut(specimens):
    record = specimens["endless"]
    assert record["h"] == 6000
    assert sum(box[0] == "article" for box in boxes_of(record)) == 15


def test_dialogs_popups_and_preloaders_do_not_stop_a_capture(specimens, site):
    kinds = [box[0] for box in boxes_of(specimens["dialogs"])]
    assert kinds[-2:] == ["main", "dialog"]
    assert len(kinds) == 5
    assert "/plain.html" not in site.paths("localhost")


@pytest.mark.parametrize("name", ["restless", "never-ends"])
def test_a_page_that_never_stops_loading_is_captured_as_it_is(name, specimens):
    assert "main" in [box[0] for box in boxes_of(specimens[name])]
    (line,) = re.findall(r"(\d+) captured while the page was still loading", specimens["text"])
    assert int(line) >= 2


def test_scripts_of_a_page_do_not_change_the_measurement(specimens):
    assert boxes_of(specimens["changed-builtins"])[-2:] == [
        ("main", 8, 16, 100, 100), ("text", 8, 16, 60, 30)
    ]  # fmt: skip


def test_a_page_that_leads_to_another_is_captured_there(specimens):
    assert boxes_of(specimens["forwards"]) == boxes_of(specimens["moved"])
    assert "header" in [box[0] for box in boxes_of(specimens["moved"])]


def test_a_page_of_a_thousand_levels_is_captured(specimens):
    assert specimens["deep"]["n"] > 200
    parse_layout(specimens["deep"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crash.html", "used too much memory"),
        ("busy.html", "was not finished after 16 s"),
        ("silent.html", "sent no page within 4 s"),
        ("private.html", "forbids it"),
        ("moved-to-private.html", "forbids it"),
        ("missing.html", "HTTP 404"),
        ("blank.html", "nothing is visible"),
        ("reloads.html", "goes to other pages again and again"),
        ("file.bin", "is a download"),
        ("data.json", "is application/json, not HTML"),
    ],
)
def test_a_page_that_cannot_be_captured_is_skipped_with_the_reason(name, expected, specimens):
    assert expected in reason(specimens, name)


def test_a_forbidden_page_is_never_requested(specimens, site):
    assert "/private.html" not in site.paths()


def test_credentials_go_to_their_host_and_are_never_written(specimens):
    assert "main" in [box[0] for box in boxes_of(specimens["locked"])]
    assert "/locked.html-800: HTTP 401; give user and password" in specimens["text"]
    for secret in (USER, PASSWORD, "cookie-value"):
        assert secret not in specimens["text"]


def test_hosts_are_asked_one_at_a_time_but_together(specimens, site):
    assert site.most_open["127.0.0.1"] == site.most_open["localhost"] == 1
    assert site.most_open["all"] == 2
    assert "/film.mp4" not in site.paths()


def test_pages_have_no_cookies_of_other_pages(specimens, site):
    assert len([path for path in site.paths() if path.endswith(".html")]) > 15
    # Only a document that is requested again, or to which another one led, has a cookie.
    assert set(site.with_cookie) <= {"/plain.html", "/locked.html", "/reloads.html"}


def test_captured_pages_are_built(specimens, tmp_path):
    report = build([specimens["out"]], tmp_path / "shards", BuildOptions(workers=1))
    assert report.counts["read"] == report.counts["kept"] + report.counts["duplicates"] > 10
