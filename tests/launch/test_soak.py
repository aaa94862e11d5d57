"""The soak test: a run that is killed, paused and damaged for five minutes loses nothing."""

import json

import pytest

from tests.support.commands import run_module


@pytest.mark.slow
def test_five_minutes_of_faults_do_not_change_the_run(tmp_path):
    out = tmp_path / "out"
    done = run_module("launch.soak", "--minutes", 5, "--out", out, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (out / "soak.jsonl").read_text().splitlines()]
    events = [line["what"] for line in lines]
    assert "mismatch" not in events
    assert events.count("resumed") >= 3
    assert "finished" in events
