"""When a target was reached, and the learning rate at another batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.support.batch_size import time_to_target
from benchmarks.support.batch_size.time_to_target import Run, at_batch, brief
from launch import trial
from shards.errors import UserError
from vaetrain.config.experiment import load_experiment

CURVE = [(100, 4.0), (200, 2.0), (300, 3.0), (400, 1.0)]


def run(curve) -> Run:
    return Run(16, "sqrt", 1e-3, curve, Path())


@pytest.mark.parametrize(
    ("target", "images"), [(5.0, 100), (4.0, 100), (3.0, 150), (2.0, 200), (1.5, 375), (0.5, None)]
)
def test_a_target_is_reached_where_the_curve_first_meets_it(target, images):
    assert run(CURVE).images_to(target) == images


@pytest.mark.parametrize(("rule", "times"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_the_learning_rate_follows_the_rule(rule, times):
    experiment = load_experiment(None, ["train.global_batch_size=16", "optimizer.lr=0.001"])
    scaled = at_batch(experiment, 64, rule)
    assert scaled.optimizer.lr == pytest.approx(times * 0.001)
    assert scaled.train.global_batch_size == 64
    assert at_batch(experiment, 16, rule) == experiment


def test_others_stop_at_the_target_and_a_training_that_failed_says_why(tmp_path, monkeypatch):
    """Trainings here are lines of metrics that appear one by one."""
    experiment = brief(load_experiment(None, ["train.global_batch_size=8"]), 160, 4)
    losses = {8: [3, 2, 1.8, 1.5], 16: [3, 1.2, 0.5, 0.2], 4: None, 32: [3] * 8}
    validated = []

    def train(scaled, seed, folder, engine, on_validation):
        batch = scaled.train.global_batch_size
        if losses[batch] is None:
            raise trial.TrialFailed("seed 0: no luck")
        assert scaled.train.max_images == (160 if batch == 8 else 320)
        place = folder / f"seed-{seed}"
        place.mkdir(parents=True)
        for number, loss in enumerate(losses[batch], 1):
            line = f'{{"split": "val", "images": {40 * number}, "loss": {loss}}}\n'
            with (place / "metrics.jsonl").open("a") as file:
                file.write(line)
            validated.append(batch)
            on_validation({"images": 40 * number, "loss": loss})

    monkeypatch.setattr(trial, "train", train)
    target, runs = time_to_target.compare(experiment, [8, 16, 32], ["sqrt"], tmp_path, None)
    assert target == 1.5
    assert validated == [8] * 4 + [16] * 2 + [32] * 8
    assert [one.batch for one in runs] == [8, 16, 32]
    reached = [one.images_to(target) for one in runs]
    assert reached == [160, pytest.approx(40 + 40 * 1.5 / 1.8), None]
    # Again: nothing is left to train.
    assert time_to_target.compare(experiment, [8, 16, 32], ["sqrt"], tmp_path, None)[1] == runs
    assert len(validated) == 14
    with pytest.raises(UserError, match="4 was reached after 40 images already"):
        time_to_target.compare(experiment, [8, 16], ["sqrt"], tmp_path, 4.0)
    with pytest.raises(UserError, match="global batch 4: seed 0: no luck"):
        time_to_target.compare(experiment, [4], ["none"], tmp_path, target)


def test_a_brief_training_has_its_validations_and_no_schedule_that_ends():
    experiment = brief(load_experiment(None, []), 4096, 16)
    assert experiment.train.validate_every_images == 256
    assert experiment.lr == replace(load_experiment(None, []).lr, schedule="constant")
