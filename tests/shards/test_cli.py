"""Commands: exit statuses, one-line errors, and output to a closed pipe."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.cli import print_line, run
from shards.errors import DamagedShards, UserError, one_line
from shards.extras import require
from tests.support.paths import REPO


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("two\nlines"), 2, "name: two\\nlines\n"),
        (DamagedShards("x.tar: is damaged"), 1, "name: x.tar: is damaged\n"),
        (OSError(28, "No space left on device", "out"), 1, "name: out: No space left on device\n"),
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


def test_unprintable_characters_become_escapes():
    assert one_line("a\x1b[2J\nü") == "a\\x1b[2J\\nü"


def test_a_missing_extra_is_named_with_the_command_that_installs_it():
    require("json", "cloud", "s3://bucket")
    with pytest.raises(UserError, match=r"s3://x needs no_such_module; install it with: pip inst"):
        require("no_such_module", "cloud", "s3://x")


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_helper_process_ends_with_its_parent(tmp_path):
    """The parent is killed; the command below `shards.lifetime` gets SIGTERM."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'shards.lifetime', 'sleep', '60'])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 30
        while b"sleep" not in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        parent.kill()
    while Path(f"/proc/{child}").exists():
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":  # dead, not yet reaped
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
