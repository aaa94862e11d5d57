"""Damaged files of settings are read or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import ODD, TREES, damaged, mutated
from tests.support.paths import EXPERIMENTS, REPO
from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.operations import OPS
from vaetrain.augmentation.policy import Policy, load_policy
from vaetrain.config.experiment import (
    Experiment,
    as_dict,
    describe_settings,
    experiment_from,
    load_experiment,
)
from vaetrain.engines.engine_files import read_engine_file
from vaetrain.engines.spec import Launch
from vaetrain.settings import ConfigError, flatten

SETTINGS = st.sampled_from(sorted(flatten(as_dict(Experiment()))))
POLICY = {name: {"probability": 0.5, "magnitude": 0.1} for name in list(OPS)[:4]}
ENGINES = sorted((REPO / "accelerate_configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Return the path of a file to write."""
    return tmp_path_factory.mktemp("hostile") / "file.yaml"


def one_line(message: str) -> None:
    assert message
    assert len(message.splitlines()) == 1
    assert message.isprintable()


def check_experiment(path: Path | None, overrides: list[str]) -> None:
    try:
        experiment = load_experiment(path, overrides)
    except ConfigError as error:
        one_line(str(error))
    else:
        assert experiment_from(as_dict(experiment), "state") == experiment


def check_policy(path: Path) -> None:
    try:
        policy = load_policy(AugmentConfig(policy=str(path)))
    except ConfigError as error:
        one_line(str(error))
    else:
        assert isinstance(policy, Policy)
        for name, settings in policy.operations.items():
            assert 0 <= settings.probability <= 1
            assert 0 <= settings.magnitude <= OPS[name].maximum


def check_engine(path: Path) -> None:
    try:
        launch = read_engine_file(path)
    except ConfigError as error:
        one_line(str(error))
    else:
        assert isinstance(launch, Launch)
        assert launch.world_size >= 1


CHECKS = {"experiment": lambda path: check_experiment(path, []), "policy": check_policy}
CHECKS["engine"] = check_engine


@pytest.mark.parametrize("kind", CHECKS)
@given(data=st.data())
def test_files_with_damaged_bytes(path, kind, data):
    whole = {"experiment": EXPERIMENTS, "engine": ENGINES, "policy": None}[kind]
    if whole is None:
        text = yaml.safe_dump(POLICY).encode()
    else:
        text = data.draw(st.sampled_from(whole)).read_bytes()
    path.write_bytes(data.draw(damaged(text) | st.binary()))
    CHECKS[kind](path)


@pytest.mark.parametrize("kind", CHECKS)
@given(data=st.data())
def test_files_with_odd_values(path, kind, data):
    whole = {"policy": POLICY, "experiment": as_dict(Experiment())}.get(kind)
    if whole is None:
        whole = yaml.safe_load(data.draw(st.sampled_from(ENGINES)).read_text())
    path.write_text(yaml.safe_dump(data.draw(mutated(whole) | TREES)))
    CHECKS[kind](path)


@given(st.lists(st.tuples(SETTINGS, ODD | st.text(max_size=12)), max_size=3))
def test_settings_on_the_command_line(pairs):
    check_experiment(None, [f"{key}={value}" for key, value in pairs])


@given(st.text(max_size=30))
def test_text_that_is_no_setting(text):
    check_experiment(None, [text])


def test_help_has_only_printable_characters():
    assert all(line.isprintable() for line in describe_settings().splitlines())
