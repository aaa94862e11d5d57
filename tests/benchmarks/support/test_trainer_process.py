"""A trainer in its own processes: its arguments, its errors, and its calls."""

from __future__ import annotations

import argparse
from multiprocessing import Pipe

import pytest

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
