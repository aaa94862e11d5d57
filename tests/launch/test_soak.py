"""Five minutes of kills, pauses and damage cost a run nothing."""

import json
import subprocess
import sys

import pytest

from tests.support.paths import REPO


@pytest.mark.slow
def test_nothing_is_lost_in_five_minutes(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "launch.soak", "--minutes", "5", "--out", str(out)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (out / "soak.jsonl").read_text().splitlines()]
    told = [line["what"] for line in lines]
    assert "mismatch" not in told
    assert told.count("resumed") >= 3
    assert "finished" in told
