"""Helper processes end with the process that started them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards import lifetime
from tests.support.paths import REPO


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


def test_exit_actions_run_in_their_order(monkeypatch):
    ran = []
    monkeypatch.setattr(lifetime, "_exit_actions", [])
    lifetime.before_exit(lambda: ran.append(1))
    lifetime.before_exit(lambda: ran.append(2))
    lifetime.run_exit_actions()
    assert ran == [1, 2]
