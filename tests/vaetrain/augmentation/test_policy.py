"""Policies: by name, from files and from a search, and mistakes in their files."""

import pytest

from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.operations import OPS
from vaetrain.augmentation.policy import NAMES, OpSettings, Policy, load_policy, write_policy
from vaetrain.data.config import SAMPLE_LAYOUTS, SAMPLE_SHARDS
from vaetrain.settings import ConfigError


@pytest.mark.parametrize("name", NAMES)
def test_named_policies_stay_within_the_limits(name):
    for operation, settings in load_policy(AugmentConfig(policy=name)).operations.items():
        assert 0 < settings.probability <= 1
        assert 0 < settings.magnitude <= OPS[operation].maximum


def test_default_policy_can_use_every_operation():
    default = load_policy(AugmentConfig(policy="default"))
    assert all(default.uses(name) for name in OPS)
    clean = load_policy(AugmentConfig(policy="default", denoise=False))
    assert {name for name in OPS if not clean.uses(name)} == {"noise", "salt_pepper", "erase"}


def test_operations_without_effect_are_not_used():
    none = OpSettings(0.0, 1.0), OpSettings(1.0, 0.0)
    assert not any(Policy({"flip": settings}).uses("flip") for settings in none)
    assert not Policy({}, random_count=1, random_level=0).uses("flip")
    assert not Policy({}, random_count=1).uses("noise")


def test_more_random_operations_than_exist_are_refused():
    with pytest.raises(ConfigError, match=r"augment\.ops: 99 is not allowed"):
        load_policy(AugmentConfig(policy="randaugment", ops=99))


def test_policy_file_is_read_and_its_mistakes_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("flip: {probability: 0.5, magnitude: 1}\n")
    assert load_policy(AugmentConfig(policy=str(path))).operations == {"flip": OpSettings(0.5, 1.0)}
    for text, message in (
        ("spin: {probability: 1, magnitude: 1}", "spin: unknown operation"),
        ("flip: {probability: 2, magnitude: 1}", "flip.probability: 2 is not allowed"),
        ("flip: 3", "flip: must be {probability"),
        (f"flip: {{probability: 1, magnitude: {10**400}}}", "flip.magnitude: 1000"),
        ("flip: {probability: .nan, magnitude: 1}", "flip.probability: nan is not allowed"),
        ("[1, 2]", "is no policy file: it must be a mapping"),
        ("flip: [", "is not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_policy(AugmentConfig(policy=str(path)))
    with pytest.raises(ConfigError, match="neither a policy nor a file"):
        load_policy(AugmentConfig(policy="stronger"))


@pytest.mark.parametrize("name", ["none", "default", "strong"])
def test_written_policy_is_read_back(tmp_path, name):
    policy = load_policy(AugmentConfig(policy=name))
    path = tmp_path / "policy.yaml"
    write_policy(path, policy, "found")
    assert load_policy(AugmentConfig(policy=str(path))) == policy
    assert path.read_text().startswith("# found\n")
    assert list(tmp_path.iterdir()) == [path]


def test_auto_reads_the_file_beside_the_shards(tmp_path):
    policy = load_policy(AugmentConfig(policy="strong"))
    write_policy(tmp_path / "policy.yaml", policy, "found")
    assert load_policy(AugmentConfig(policy="auto"), tmp_path) == policy
    clean = load_policy(AugmentConfig(policy="auto", denoise=False), tmp_path)
    assert clean == policy.without_corruption()


def test_auto_reads_the_file_of_the_sample_unless_a_search_wrote_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_policy(AugmentConfig(policy=str(SAMPLE_LAYOUTS / "policy.yaml")))
    assert shipped.operations
    assert load_policy(AugmentConfig(policy="auto")) == shipped
    found = load_policy(AugmentConfig(policy="strong"))
    SAMPLE_SHARDS.mkdir(parents=True)
    write_policy(SAMPLE_SHARDS / "policy.yaml", found, "found")
    assert load_policy(AugmentConfig(policy="auto")) == found


def test_auto_without_a_search_names_the_command(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        load_policy(AugmentConfig(policy="auto"), tmp_path)
    assert f"{tmp_path / 'policy.yaml'}, which does not exist" in str(refusal.value)
    assert f"python -m vaetrain.augment.search data.shards={tmp_path}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
