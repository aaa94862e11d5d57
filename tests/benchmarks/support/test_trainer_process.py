"""A trainer in its own processes: its arguments, its errors, and its calls."""

from __future__ import annotations

import argparse
from multiprocessing import Pipe

import pytest

from benchmarks.support import trainer_process
from benchmarks.support.trainer_process import QUICK_SETTINGS, TrainerProcess, trainer_settings
from shards.errors import UserError


def test_settings_of_the_user_follow_those_of_a_quick_run():
    arguments = argparse.Namespace(quick=True, settings=["data.width=32"], seed=7)
    assert trainer_settings(arguments) == [*QUICK_SETTINGS, "data.width=32", "train.seed=7"]
    arguments.quick = False
    assert trainer_settings(arguments) == ["data.width=32", "train.seed=7"]


def test_a_wrong_setting_is_refused_before_a_process_is_started():
    with pytest.raises(UserError, match=r"model\.size"):
        TrainerProcess("single", None, ["model.size=huge"])


class Started(Exception):
    """Exception instead of a started process; its arguments are the command."""


def test_a_number_of_processes_is_passed_to_the_launcher(monkeypatch):
    """On eight GPUs an engine file alone starts eight ranks, and `scaling` compares two."""

    def start(command: list[str], **_: object) -> None:
        raise Started(*command)

    monkeypatch.setattr(trainer_process.subprocess, "Popen", start)
    with pytest.raises(Started) as raised:
        TrainerProcess("ddp", None, [], processes=2)
    command = raised.value.args
    assert command[command.index("--num_processes") + 1] == "2"
    with pytest.raises(Started) as raised:
        TrainerProcess("ddp", None, [])
    assert "--num_processes" not in raised.value.args


def test_the_end_of_the_trainer_is_a_user_error():
    trainer = TrainerProcess.__new__(TrainerProcess)
    trainer.engine = "ddp"
    trainer._connection, other = Pipe()
    other.close()
    with pytest.raises(UserError, match="ddp: the trainer ended; see its messages above"):
        trainer("train", count=1)


@pytest.mark.slow
def test_calls_run_on_the_trainer_until_the_context_ends():
    settings = [*QUICK_SETTINGS, "model.start=random"]
    with TrainerProcess("single", None, settings) as trainer:
        assert trainer("about")["ranks"] == 1
        assert trainer("train", count=2)["images"] == 16
    assert trainer._process.returncode == 0
