"""Commands: exit statuses, one-line errors, and output to a closed pipe."""

import io
import os
import signal
import sys

import pytest

from shards.cli import print_line, run
from shards.errors import DamagedShards, UserError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("two\nlines"), 2, "name: two\\nlines\n"),
        (DamagedShards("x.tar: is damaged"), 1, "name: x.tar: is damaged\n"),
        (
            OSError(28, "No space left on device", "out"),
            1,
            "name: out: No space left on device; free some space\n",
        ),
        (KeyboardInterrupt(), 130, "name: interrupted\n"),
    ],
)
def test_errors_give_a_status_and_one_line(error, status, message, capsys, monkeypatch):
    def command() -> int:
        raise error

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as ended:
        run("name", command)
    assert ended.value.code == status
    assert capsys.readouterr().err == message


def test_a_closed_pipe_is_ignored(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        print_line("lost")
        monkeypatch.undo()
        pipe_is_broken = False
        try:
            pipe.flush()
        except BrokenPipeError:
            pipe_is_broken = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())
    assert pipe_is_broken
