"""A refusal is printed by one rank, and always by somebody."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import REPO
from vaetrain.engines.launching import refusal

STALE = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"},
    **{"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none"},
}


@pytest.mark.parametrize(
    ("environment", "launched", "expected"),
    [
        ({}, False, "error: no such thing\n"),
        (STALE, False, "error: no such thing\n"),  # left in a shell: nobody else prints
        (STALE, True, ""),
        (STALE | {"LOCAL_RANK": "0"}, True, "error: no such thing\n"),
    ],
)
def test_the_first_rank_of_a_launcher_prints(monkeypatch, capsys, environment, launched, expected):
    for name in STALE:
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(refusal, "is_under_launcher", lambda: launched)
    with pytest.raises(SystemExit) as exit:
        refusal.refuse("no such thing")
    assert exit.value.code == 2
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["data.width=-5"], {"RANK": "3"}, "data.width: -5 is not allowed"),
        (["data.width=-5"], STALE, "data.width: -5 is not allowed"),
        (["data.shards=/nowhere"], {"RANK": "3"}, "/nowhere holds no index.json"),
        (["data.shards=SHARDS"], {"RANK": "3"}, "RANK is 3, but WORLD_SIZE is not set"),
        (["data.shards=SHARDS"], {"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', must be a"),
        (["data.shards=SHARDS", "--config_file", "ddp"], STALE, "no running launcher has set"),
        (
            ["data.shards=SHARDS"],
            {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
            "ACCELERATE_DYNAMO_BACKEND is 'INDUCTOR'; it is not used; write 'NO', and set train.c",
        ),
    ],
)
def test_variables_left_in_a_shell_end_the_trainer_with_one_line(
    shards, arguments, environment, message
):
    words = [word.replace("SHARDS", str(shards)) for word in arguments]
    done = subprocess.run(
        [sys.executable, "vaetrain/train.py", *words],
        cwd=REPO, env=os.environ | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
