"""Progress where stderr is no terminal: lines in a log file, none for a short loop."""

import sys
import time

import pytest

from shards import progress
from shards.cli import progress as progress_bar


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that bars see: its first value, which a test changes."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_long_loop_prints_a_line_every_half_minute(clock, capsys):
    for _ in progress_bar(range(10), desc="encoding", unit="page"):
        clock[0] += 10
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 3 of 10, 00:30 passed, 01:10 left",
        "encoding: 6 of 10, 01:00 passed, 00:40 left",
        "encoding: 9 of 10, 01:30 passed, 00:10 left",
        "encoding: 10 of 10, 01:40 passed, 00:00 left",
    ]


def test_a_loop_of_unknown_length_prints_lines(clock, capsys):
    with progress_bar(unit="page") as bar:
        for _ in range(2):
            clock[0] += 40
            bar.update(1500)
    assert capsys.readouterr().err.splitlines() == [
        "1500 pages, 00:40 passed",
        "3000 pages, 01:20 passed",
    ]


def test_a_short_loop_prints_nothing(clock, capsys):
    for _ in progress_bar(range(10)):
        clock[0] += 2
    assert capsys.readouterr().err == ""


def test_the_text_of_a_bar_prints_no_line(clock, capsys):
    with progress_bar(total=3, desc="searching", unit="training") as bar:
        bar.set_postfix_str("first, 64 images")
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_rank_that_is_not_the_main_process_prints_nothing(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    for _ in progress_bar(range(10)):
        clock[0] += 40
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in progress_bar(range(10), desc="encoding"):
        clock[0] += 40
    assert "encoding: 100%|" in capsys.readouterr().err


def test_a_stage_prints_its_name_and_that_it_still_runs(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    with progress.stage("placing"):
        time.sleep(0.1)
    written = capsys.readouterr()
    assert written.out == "placing\n"
    assert set(written.err.splitlines()) == {"placing: 0 s passed"}
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it has ended
