"""Images to a target, the learning rate at another batch, and the order of trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.support.batch_size import time_to_target
from benchmarks.support.batch_size.time_to_target import Run, at_batch, brief
from launch import training_process
from shards.errors import UserError
from vaetrain.config.experiment import load_experiment

CURVE = [(100, 4.0), (200, 2.0), (300, 3.0), (400, 1.0)]


def run(curve) -> Run:
    return Run(16, "sqrt", 1e-3, curve, Path())


@pytest.mark.parametrize(
    ("target", "images"), [(5.0, 100), (4.0, 100), (3.0, 150), (2.0, 200), (1.5, 375), (0.5, None)]
)
def test_images_to_a_target_are_interpolated_at_its_first_crossing(target, images):
    assert run(CURVE).images_to(target) == images


@pytest.mark.parametrize(("rule", "times"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_the_learning_rate_follows_the_rule(rule, times):
    experiment = load_experiment(None, ["train.global_batch_size=16", "optimizer.lr=0.001"])
    scaled = at_batch(experiment, 64, rule)
    assert scaled.optimizer.lr == pytest.approx(times * 0.001)
    assert scaled.train.global_batch_size == 64
    assert at_batch(experiment, 16, rule) == experiment


def test_other_batches_stop_at_the_target_and_failures_name_their_reason(tmp_path, monkeypatch):
    """Trainings are replaced by a function that appends lines of metrics."""
    experiment = brief(load_experiment(None, ["train.global_batch_size=8"]), 160, 4)
    losses = {8: [3, 2, 1.8, 1.5], 16: [3, 1.2, 0.5, 0.2], 4: None, 32: [3] * 8}
    validated = []

    def train(scaled, seed, folder, engine, on_validation):
        batch = scaled.train.global_batch_size
        if losses[batch] is None:
            raise training_process.TrialFailed("seed 0: out of memory")
        assert scaled.train.max_images == (160 if batch == 8 else 320)
        run_dir = folder / f"seed-{seed}"
        run_dir.mkdir(parents=True)
        for number, loss in enumerate(losses[batch], 1):
            line = f'{{"split": "val", "images": {40 * number}, "loss": {loss}}}\n'
            with (run_dir / "metrics.jsonl").open("a") as file:
                file.write(line)
            validated.append(batch)
            on_validation({"images": 40 * number, "loss": loss})

    monkeypatch.setattr(training_process, "train", train)
    target, runs = time_to_target.compare(experiment, [8, 16, 32], ["sqrt"], tmp_path, None)
    assert target == 1.5
    assert validated == [8] * 4 + [16] * 2 + [32] * 8
    assert [one.batch for one in runs] == [8, 16, 32]
    reached = [one.images_to(target) for one in runs]
    assert reached == [160, pytest.approx(40 + 40 * 1.5 / 1.8), None]
    # A second call trains nothing: all runs are finished.
    assert time_to_target.compare(experiment, [8, 16, 32], ["sqrt"], tmp_path, None)[1] == runs
    assert len(validated) == 14
    with pytest.raises(UserError, match="at the target of 4 after 40 images"):
        time_to_target.compare(experiment, [8, 16], ["sqrt"], tmp_path, 4.0)
    with pytest.raises(UserError, match="global batch 4: seed 0: out of memory"):
        time_to_target.compare(experiment, [4], ["none"], tmp_path, target)


def test_a_brief_training_has_a_constant_learning_rate_and_its_number_of_validations():
    experiment = brief(load_experiment(None, []), 4096, 16)
    assert experiment.train.validate_every_images == 256
    assert experiment.lr == replace(load_experiment(None, []).lr, schedule="constant")
