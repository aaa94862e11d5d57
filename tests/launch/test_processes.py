"""Families of processes: found by their mark, with the families that they start, and killed."""

import os
import subprocess
import sys

from launch.processes import MARK, family, kill_family, new_mark

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def sleeper(mark: str) -> subprocess.Popen:
    return subprocess.Popen(SLEEP, env=os.environ | {MARK: mark}, start_new_session=True)


def test_a_mark_inside_another_belongs_to_its_family(monkeypatch):
    outer = new_mark()
    monkeypatch.setenv(MARK, outer)
    inner = new_mark()
    assert inner.startswith(f"{outer}/")
    processes = {mark: sleeper(mark) for mark in (outer, inner, f"{outer}0")}
    try:
        for mark, members in ((outer, {outer, inner}), (inner, {inner})):
            assert set(family(mark)) == {processes[name].pid for name in members}
        kill_family(outer)
        assert processes[outer].wait() == processes[inner].wait() == -9
        assert processes[f"{outer}0"].poll() is None
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_a_process_does_not_kill_itself():
    code = (
        "import os; from launch.processes import MARK, kill_family; kill_family(os.environ[MARK])"
    )
    environment = os.environ | {MARK: new_mark()}
    done = subprocess.run([sys.executable, "-c", code], env=environment)
    assert done.returncode == 0
