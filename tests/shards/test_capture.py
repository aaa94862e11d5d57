"""The command: arguments, output, exit status, and captures that are killed or interrupted."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.capturing import boxes_of, capture, processes, records_of, start
from tests.support.chromium import needs_chromium
from tests.support.paths import REPO
from tests.support.site_server import SITE, Site


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


@needs_chromium
@pytest.mark.slow
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
@pytest.mark.slow
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
@pytest.mark.slow
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
