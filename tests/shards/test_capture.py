"""Capture of pages in Chromium: specimens served on the loopback, each with one difficulty."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.build import build
from shards.building.options import BuildOptions
from shards.format.layout import parse_layout
from tests.support.chromium import needs_chromium
from tests.support.paths import REPO
from tests.support.site_server import PASSWORD, SITE, USER, Site

COMMAND = [sys.executable, "-m", "shards.capture", "--no-sandbox"]
MARK = "CAPTURE_TEST"  # variable by which the processes of a capture are found

Boxes = list[tuple[str | None, int, int, int, int]]


def start(out: Path, *arguments: str, mark: str = "") -> subprocess.Popen:
    """Start a capture, with a variable in its environment that its processes inherit."""
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *arguments],
        cwd=REPO,
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def capture(out: Path, *arguments: str, status: int = 0, mark: str = "") -> str:
    """Run a capture to its end and return what it printed."""
    with start(out, *arguments, mark=mark) as process:
        printed = process.communicate(timeout=200)[0]
    assert process.returncode == status, printed
    return printed


def records_of(out: Path) -> dict[str, dict]:
    """Return the records of an output by the name of their page."""
    lines = gzip.decompress(out.read_bytes()).splitlines() if out.exists() else []
    records = map(json.loads, lines)
    return {f"{r['url_path'].strip('/')} {r['viewport']}": r for r in records}


def boxes_of(record: dict) -> Boxes:
    """Return kind, left, top, width and height of all boxes, in px of the page."""
    found: Boxes = []

    def visit(node: dict, left: int, top: int) -> None:
        x, y, width, height = node["b"]
        found.append((node.get("t"), left + x, top + y, width, height))
        for child in node.get("c", []):
            visit(child, left + x, top + y)

    visit(record["r"], 0, 0)
    return found


def processes(mark: str) -> list[int]:
    """Return the processes that inherited a mark from a capture."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def site():
    """Give the server of the specimens."""
    server = Site()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.html", "--out", "x.jsonl"], "error: missing.html: no such file or folder"),
        ([str(SITE), "--out", "x.tar"], "error: x.tar: --out must end in .jsonl.gz or .jsonl"),
        ([str(SITE), "--out", "x.jsonl", "--widths", "12"], "must be a whole number in 120..3840"),
        ([str(SITE), "--out", "x.jsonl", "--widths", "a,b"], "must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "shards.capture", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@needs_chromium
def test_a_page_gives_a_layout_for_each_width(site, tmp_path):
    out = tmp_path / "out.jsonl.gz"
    printed = capture(out, site.url("plain.html"), "--widths", "390,1280")
    assert "captured 2 layouts of 2, 0 were in" in printed
    narrow, wide = records_of(out).values()
    assert [narrow["w"], wide["w"]] == [narrow["viewport"], wide["viewport"]] == [390, 1280]
    assert [r["id"] for r in (narrow, wide)] == [
        f"{site.url('plain.html')}-{width}" for width in (390, 1280)
    ]
    assert boxes_of(wide) == [
        ("page", 0, 0, 1280, 2000),
        (None, 0, 60, 1280, 1940),
        ("header", 0, 0, 1280, 60),  # once, though it is fixed and the page was scrolled
        ("nav", 0, 0, 300, 40),
        ("main", 20, 60, 1240, 1940),
        ("heading", 20, 60, 200, 50),
        ("link", 20, 206, 60, 30),  # in a box without width
        (None, 20, 246, 70, 20),  # visible in an invisible box
        (None, 20, 276, 100, 40),
        (None, 20, 276, 100, 10),  # clipped; the other one is clipped away
        ("form", 20, 316, 1240, 48),
        ("input", 20, 316, 120, 24),
        ("checkbox", 20, 340, 20, 24),
    ]
    text = gzip.decompress(out.read_bytes()).decode()
    assert "form-value" not in text
    assert "cookie-value" not in text


@pytest.fixture(scope="module")
def specimens(site, tmp_path_factory) -> dict[str, dict]:
    """Return the records of all specimens, captured together."""
    out = tmp_path_factory.mktemp("capture") / "out.jsonl.gz"
    names = (
        "gallery",
        *("contents", "transforms", "rtl", "shadow", "frames", "lazy", "endless", "dialogs"),
        *("restless", "crash", "busy", "changed-builtins", "forwards", "deep", "never-ends"),
        *("silent", "moved", "moved-to-private", "private", "locked", "missing"),
    )
    urls = [site.url(f"{name}.html") for name in names]
    urls += [site.url("file.bin"), site.url("data.json")]
    # Two names of one server are two hosts.
    urls.insert(0, site.url("gallery.html", "localhost"))
    urls.append(site.url("locked.html", f"{USER}:{PASSWORD}@localhost"))
    limits = ("--seconds", "12", "--memory-mb", "400", "--widths", "800")
    printed = capture(out, *urls, *limits)
    found = {name.partition(".html")[0]: record for name, record in records_of(out).items()}
    text = gzip.decompress(out.read_bytes()).decode() + printed
    return found | {"text": text, "out": out}


def reason(specimens: dict, name: str) -> str:
    """Return the printed reason why a page was skipped."""
    (line,) = (line for line in specimens["text"].splitlines() if f"/{name}-800: " in line)
    return line.partition("-800: ")[2]


pages = pytest.mark.slow
"""Tests of `specimens`, which takes most of a minute."""


@needs_chromium
@pages
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


@needs_chromium
@pages
def test_an_endless_page_is_cut(specimens):
    record = specimens["endless"]
    assert record["h"] == 6000
    assert sum(box[0] == "article" for box in boxes_of(record)) == 15


@needs_chromium
@pages
def test_dialogs_popups_and_preloaders_do_not_stop_a_capture(specimens, site):
    kinds = [box[0] for box in boxes_of(specimens["dialogs"])]
    assert kinds[-2:] == ["main", "dialog"]
    assert len(kinds) == 5
    assert "/plain.html" not in site.paths("localhost")


@needs_chromium
@pages
@pytest.mark.parametrize("name", ["restless", "never-ends"])
def test_a_page_that_never_stops_loading_is_captured_as_it_is(name, specimens):
    assert "main" in [box[0] for box in boxes_of(specimens[name])]
    (line,) = re.findall(r"(\d+) captured while the page was still loading", specimens["text"])
    assert int(line) >= 2


@needs_chromium
@pages
def test_scripts_of_a_page_do_not_change_the_measurement(specimens):
    assert boxes_of(specimens["changed-builtins"])[-2:] == [
        ("main", 8, 16, 100, 100), ("text", 8, 16, 60, 30)
    ]  # fmt: skip


@needs_chromium
@pages
def test_a_page_that_leads_to_another_is_captured_there(specimens):
    assert boxes_of(specimens["forwards"]) == boxes_of(specimens["moved"])
    assert "header" in [box[0] for box in boxes_of(specimens["moved"])]


@needs_chromium
@pages
def test_a_page_of_a_thousand_levels_is_captured(specimens):
    assert specimens["deep"]["n"] > 200
    parse_layout(specimens["deep"])


@needs_chromium
@pages
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crash.html", "used too much memory"),
        ("busy.html", "was not finished after 12 s"),
        ("silent.html", "sent no page within 3 s"),
        ("private.html", "forbids it"),
        ("moved-to-private.html", "forbids it"),
        ("missing.html", "HTTP 404"),
        ("file.bin", "is a download"),
        ("data.json", "is application/json, not HTML"),
    ],
)
def test_a_page_that_cannot_be_captured_is_skipped_with_the_reason(name, expected, specimens):
    assert expected in reason(specimens, name)


@needs_chromium
@pages
def test_a_forbidden_page_is_never_requested(specimens, site):
    assert "/private.html" not in site.paths()


@needs_chromium
@pages
def test_credentials_go_to_their_host_and_are_never_written(specimens):
    assert "main" in [box[0] for box in boxes_of(specimens["locked"])]
    assert "/locked.html-800: HTTP 401; give user and password" in specimens["text"]
    for secret in (USER, PASSWORD, "cookie-value"):
        assert secret not in specimens["text"]


@needs_chromium
@pages
def test_hosts_are_asked_one_at_a_time_but_together(specimens, site):
    assert site.most_open["127.0.0.1"] == site.most_open["localhost"] == 1
    assert site.most_open["all"] == 2
    assert "/film.mp4" not in site.paths()


@needs_chromium
@pages
def test_pages_have_no_cookies_of_other_pages(specimens, site):
    assert len([path for path in site.paths() if path.endswith(".html")]) > 15
    # Only a document to which another one or a refusal led has its cookie.
    assert set(site.with_cookie) <= {"/plain.html", "/locked.html"}


@needs_chromium
@pages
def test_captured_pages_are_built(specimens, tmp_path):
    report = build([specimens["out"]], tmp_path / "shards", BuildOptions(workers=1))
    assert report.counts["read"] == report.counts["kept"] + report.counts["duplicates"] > 10


@needs_chromium
@pages
def test_a_killed_capture_is_continued(site, tmp_path):
    out = tmp_path / "out.jsonl.gz"
    urls = [site.url(f"plain.html?page={number}") for number in range(4)]
    mark = f"killed-{os.getpid()}"
    with start(out, *urls, "--widths", "500", mark=mark) as process:
        while not (out.exists() and out.stat().st_size) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = list(records_of(out))
    assert 1 <= len(done) < 4
    end = time.monotonic() + 20
    while processes(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert processes(mark) == []  # the browser has ended, too
    before = len(site.requests)
    printed = capture(out, *urls, "--widths", "500")
    assert f"captured {4 - len(done)} layouts of 4, {len(done)} were in" in printed
    asked = [path for _, path in site.requests[before:] if "page=" in path]
    assert len(asked) == 4 - len(done)
    assert len(records_of(out)) == 4
    before = len(site.requests)
    assert "captured 0 layouts of 4, 4 were in" in capture(out, *urls, "--widths", "500")
    assert len(site.requests) == before


@needs_chromium
@pages
def test_a_browser_that_ends_is_started_again(site, tmp_path):
    mark = f"ended-{os.getpid()}"
    kills = []

    def kill_browser() -> None:
        for pid in processes(mark):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"chrom" in command and b"--type=" not in command and b"--headless" in command:
                kills.append(pid)
                os.kill(pid, signal.SIGKILL)

    site.hooks["/inner.html"] = kill_browser
    urls = [site.url(f"{name}.html") for name in ("rtl", "inner", "shadow")]
    printed = capture(tmp_path / "out.jsonl.gz", *urls, "--widths", "700", mark=mark)
    del site.hooks["/inner.html"]
    assert len(kills) == 2
    assert "skipped 1: the browser ended each time it was opened" in printed
    assert list(records_of(tmp_path / "out.jsonl.gz")) == ["rtl.html 700", "shadow.html 700"]


@needs_chromium
@pages
def test_files_are_captured_and_an_interrupt_ends_the_browser(tmp_path):
    out, mark = tmp_path / "out.jsonl.gz", f"interrupted-{os.getpid()}"
    files = [str(SITE / name) for name in ("rtl.html", "busy.html")]
    with start(out, *files, "--widths", "600", mark=mark) as process:
        while not (out.exists() and out.stat().st_size) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert printed.splitlines()[-1] == "error: interrupted"
    (record,) = records_of(out).values()
    assert record["id"] == f"file://{SITE}/rtl.html-600"
    assert (record["template"], record["url_path"]) == ("site", "rtl.html")
    assert processes(mark) == []


@needs_chromium
def test_nothing_captured_is_an_error(site, tmp_path):
    out = tmp_path / "out.jsonl.gz"
    printed = capture(out, site.url("missing.html"), "--widths", "500", status=2)
    *_, why, error = printed.splitlines()
    assert why == "skipped 1: HTTP 404"
    assert error == "error: no page was captured; the reasons are above"
    assert not out.exists()


@needs_chromium
def test_a_program_that_is_no_browser_is_refused(site, tmp_path):
    printed = capture(tmp_path / "x.jsonl", str(SITE), "--browser", "/bin/true", status=2)
    assert "error: /bin/true: does not start (it ended at once" in printed.splitlines()[-1]
