"""Policy search: candidates, successive halving, and trials with their table."""

import random
import sys

import pytest

from shards.errors import UserError
from vaetrain.augmentation.operations import CHOICES, OPS
from vaetrain.config.experiment import load_experiment
from vaetrain.policy_search import (
    TRIAL_SETTINGS,
    TrialRunner,
    candidates,
    random_policy,
    rungs,
    successive_halving,
)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (2, [(2, 8192)]),
        (4, [(4, 8192)]),
        (5, [(5, 2048), (2, 8192)]),
        (16, [(16, 2048), (4, 8192)]),
        (64, [(64, 512), (16, 2048), (4, 8192)]),
    ],
)
def test_each_rung_keeps_a_quarter_for_four_times_the_images(trials, expected):
    assert rungs(trials, 8192) == expected


def test_every_rung_has_images():
    assert rungs(64, 3) == [(64, 1), (16, 1), (4, 3)]


def test_halving_finds_the_best_despite_noisy_early_scores():
    rng, calls = random.Random(0), []

    def score(name: str, images: int) -> float:
        calls.append((name, images))
        return int(name) + rng.uniform(-4, 4) * 100 / images

    names = [str(number) for number in range(16)]
    rng.shuffle(names)
    ranking = successive_halving(names, 1600, score)
    assert [name for name, _ in ranking][:1] == ["0"]
    assert [loss for _, loss in ranking] == sorted(loss for _, loss in ranking)
    assert calls[:16] == [(name, 400) for name in names]
    assert [images for _, images in calls[16:]] == [1600] * 4


def test_a_non_finite_loss_ranks_last():
    losses = {"a": float("inf"), "b": 2.0, "c": 1.0}
    ranking = successive_halving(list(losses), 8, lambda name, _: losses[name])
    assert [name for name, _ in ranking] == ["c", "b", "a"]


def test_random_policies_follow_the_seed_and_the_limits():
    policies = candidates(200, 0, denoise=True)
    assert list(policies)[:3] == ["none", "default", "random 0"]
    assert len(policies) == 200
    assert candidates(300, 0, denoise=True) | policies == candidates(300, 0, denoise=True)
    assert candidates(3, 1, denoise=True)["random 0"] != policies["random 0"]
    drawn = [policy.operations for name, policy in policies.items() if name.startswith("random")]
    for name, op in OPS.items():
        used = [operations[name] for operations in drawn if name in operations]
        assert 70 < len(used) < 130
        assert all(0 <= settings.probability <= 1 for settings in used)
        assert all(0 <= settings.magnitude <= op.full for settings in used)
        # Weak and strong policies.
        assert min(settings.magnitude for settings in used) < 0.05 * op.full
        assert max(settings.magnitude for settings in used) > 0.6 * op.full


def test_no_trial_fits_a_prior():
    prior = load_experiment(None, list(TRIAL_SETTINGS)).prior
    assert not prior.is_fitted(is_spatial=False, pages=10**6)


def test_without_denoising_no_candidate_corrupts_the_input():
    for policy in candidates(30, 0, denoise=False).values():
        assert set(policy.operations) <= set(CHOICES)


def a_trainer(script: str) -> list[str]:
    """Return the command of a trainer that runs a script instead of training."""
    return [sys.executable, "-c", script]


WRITE_LOSS = """
import pathlib, sys
run = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
run.mkdir()
(run / "metrics.jsonl").write_text('{"split": "val", "images": 8%s}\\n')
"""


def test_trials_are_reused_for_the_same_settings_only(tmp_path):
    table = tmp_path / "table.jsonl"
    (policy,) = [random_policy(random.Random(0), CHOICES)]
    one = TrialRunner(a_trainer(WRITE_LOSS % ', "loss": 0.5'), table, "one")
    other = TrialRunner(a_trainer(WRITE_LOSS % ', "loss": 0.25'), table, "other")
    assert one.validation_loss(policy, 8) == 0.5
    assert TrialRunner(a_trainer("1 / 0"), table, "one").validation_loss(policy, 8) == 0.5
    assert other.validation_loss(policy, 8) == 0.25
    diverged = TrialRunner(a_trainer(WRITE_LOSS % ""), table, "diverged")
    assert diverged.validation_loss(policy, 8) == float("inf")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('error: data.width: 3 is not allowed')", "data.width: 3"),
        ("1 / 0", "ZeroDivisionError"),
        ("import os; os._exit(7)", "exit status 7"),
        ("", "no validation pages"),
    ],
)
def test_a_failed_training_ends_the_search(tmp_path, script, message):
    runner = TrialRunner(a_trainer(script), tmp_path / "table.jsonl", "one")
    with pytest.raises(UserError, match=message):
        runner.validation_loss(random_policy(random.Random(0), CHOICES), 8)
    assert not list(tmp_path.iterdir())
