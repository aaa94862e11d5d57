"""Settings, policy and data of a resumed run are compared with those of its checkpoint."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.vaetrain.artifacts.test_checkpoint import a_checkpoint
from vaetrain.artifacts import checkpoint, same_run
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.policy import load_policy
from vaetrain.config.experiment import Experiment, as_dict, load_experiment
from vaetrain.settings import ConfigError


def test_settings_that_change_the_computation_cannot_change():
    before = as_dict(Experiment())
    longer = load_experiment(None, ["train.max_images=99", "data.workers=3", "name=other"])
    same_run.check_same_experiment(before, longer)
    other = load_experiment(None, ["train.seed=5", "optimizer.lr=1"])
    with pytest.raises(ConfigError, match=r"optimizer\.lr .*train\.seed \(was 0, now 5\)"):
        same_run.check_same_experiment(before, other)


@pytest.mark.parametrize("name", ["none", "default", "randaugment", "trivialaugment"])
def test_policy_is_compared_after_a_checkpoint(name):
    policy = load_policy(AugmentConfig(policy=name))
    saved = json.loads(json.dumps(policy.as_dict()))
    same_run.check_same_policy(saved, policy)
    other = load_policy(AugmentConfig(policy="strong"))
    with pytest.raises(ConfigError, match=r"augment\.policy: .*level \(was"):
        same_run.check_same_policy(saved, dataclasses.replace(other, random_level=0.3))


def test_run_resumes_with_its_own_data_only():
    policy = load_policy(AugmentConfig(policy="none"))
    experiment = load_experiment(None, ["data.partitions=1"])
    saved = dataclasses.replace(a_checkpoint(16), state=dict.fromkeys(checkpoint.STATE_KEYS))
    saved.state |= {"experiment": as_dict(experiment), "policy": policy.as_dict()}
    saved.state["data"] = "one"
    same_run.check_same_run(saved, experiment, policy, "one", order=1)
    with pytest.raises(ConfigError, match="sample: not the data that the run was started with"):
        same_run.check_same_run(saved, experiment, policy, "other", order=1)


def test_settings_of_another_version_are_named():
    before = as_dict(Experiment())
    del before["loss"]["ssim"], before["train"]["timeout_seconds"]
    with pytest.raises(
        ConfigError, match=r"loss\.ssim \(was absent, now 0\.1\).*; give the old settings"
    ):
        same_run.check_same_experiment(before, Experiment())


def test_a_run_of_a_version_without_the_contrastive_loss_resumes():
    settings = ["curriculum.phases=[{epoch: 1, ssim: 0.2}]"]
    before = as_dict(load_experiment(None, settings))
    del before["loss"]["contrastive"], before["curriculum"]["phases"][0]["contrastive"]
    same_run.check_same_experiment(before, load_experiment(None, settings))
    other = load_experiment(None, [*settings, "loss.contrastive=0.1"])
    with pytest.raises(ConfigError, match=r"loss\.contrastive \(was 0\.0, now 0\.1\)"):
        same_run.check_same_experiment(before, other)


def test_a_run_of_a_version_without_levels_resumes():
    before = as_dict(Experiment())
    del before["model"]["levels"], before["model"]["decode"]
    same_run.check_same_experiment(before, Experiment())


def test_a_run_of_a_version_without_settings_of_the_ladder_resumes():
    before = as_dict(Experiment())
    del before["model"]["ladder_channels"]
    del before["beta"]["levels"], before["beta"]["levels_warmup_epochs"]
    same_run.check_same_experiment(before, Experiment())


def test_a_run_of_a_version_without_partitions_resumes_in_one():
    before = as_dict(Experiment())
    del before["data"]["partitions"]
    saved = dataclasses.replace(a_checkpoint(16), state={"experiment": before})
    assert same_run.saved_partitions(saved) == 1
    same_run.check_same_experiment(before, load_experiment(None, ["data.partitions=1"]))
    with pytest.raises(ConfigError, match=r"data\.partitions \(was 1, now 4\)"):
        same_run.check_same_experiment(before, load_experiment(None, ["data.partitions=4"]))


@pytest.mark.parametrize(("saved_order", "order"), [(None, 2), (2, 1), (3, 2)])
def test_a_run_in_another_order_of_the_pages_is_refused(saved_order, order):
    experiment, policy = Experiment(), load_policy(AugmentConfig(policy="none"))
    state = dict.fromkeys(checkpoint.STATE_KEYS) | {"data": "one"}
    state |= {"experiment": as_dict(experiment), "policy": policy.as_dict()}
    state["experiment"]["data"]["partitions"] = None
    if saved_order is not None:
        state[same_run.ORDER] = saved_order
    saved = dataclasses.replace(a_checkpoint(16), state=state)
    same_run.check_same_run(saved, experiment, policy, "one", order=saved_order or 1)
    with pytest.raises(ConfigError, match=f"order {saved_order or 1} of the pages, .* {order}: "):
        same_run.check_same_run(saved, experiment, policy, "one", order=order)
