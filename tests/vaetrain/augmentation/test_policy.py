"""Policies: what they say, what is drawn of them, and mistakes in their files."""

import pytest
import torch

from vaetrain.augmentation.config import AugmentConfig
from vaetrain.augmentation.policy import CHOICES, OPS, Chance, Policy, load_policy, write_policy
from vaetrain.augmentation.strengths import draw_strengths
from vaetrain.settings import ConfigError

KEYS = torch.arange(10_000) * 7919


def test_the_default_is_what_is_promised():
    chances = load_policy(AugmentConfig(policy="default")).chances
    assert chances["rotate"] == Chance(1.0, 5.0)
    assert chances["perspective"].probability == 0.3
    assert chances["brightness"] == chances["contrast"] == Chance(1.0, 0.1)
    assert chances["salt_pepper"] == Chance(1.0, 0.04)
    assert chances["erase"].probability == 0.35
    assert [chances[name].probability for name in ("lines", "text", "tone")] == [0.3, 0.2, 0.5]
    assert chances["tone"].magnitude == 0.2  # contrast 0.8 to 1.2


def test_operations_happen_as_often_as_they_should():
    policy = Policy({"rotate": Chance(0.3, 5.0), "flip": Chance(0.5, 1.0)})
    drawn = draw_strengths(policy, KEYS)
    rotated, flipped = drawn["rotate"].strength, drawn["flip"].strength
    assert (rotated > 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert set(rotated.tolist()) == {0.0, 5.0}
    both = ((rotated > 0) & (flipped > 0)).float().mean()
    assert both == pytest.approx(0.15, abs=0.02)  # independently


@pytest.mark.parametrize("ops", [1, 3, len(CHOICES)])
def test_randaugment_applies_as_many_as_asked(ops):
    config = AugmentConfig(policy="randaugment", ops=ops, level=0.5, denoise=False)
    drawn = draw_strengths(load_policy(config), KEYS)
    strengths = torch.stack([drawn[name].strength / OPS[name].full for name in CHOICES], 1)
    assert ((strengths > 0).sum(1) == ops).all()
    assert set(strengths.unique().tolist()) <= {0.0, 0.5}
    often = (strengths > 0).float().mean(0)  # all as likely
    assert (often - ops / len(CHOICES)).abs().max() < 0.02


def test_trivialaugment_applies_one_at_any_strength():
    drawn = draw_strengths(load_policy(AugmentConfig(policy="trivialaugment", denoise=False)), KEYS)
    levels = torch.stack([drawn[name].strength / OPS[name].full for name in CHOICES], 1)
    assert ((levels > 0).sum(1) <= 1).all()
    level = levels.amax(1)
    assert level.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist() == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.03
    )


def test_too_many_operations_are_refused():
    with pytest.raises(ConfigError, match=r"augment\.ops: 99 is not allowed"):
        load_policy(AugmentConfig(policy="randaugment", ops=99))


def test_a_policy_file_and_its_mistakes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("flip: {probability: 0.5, magnitude: 1}\n")
    assert load_policy(AugmentConfig(policy=str(path))).chances == {"flip": Chance(0.5, 1.0)}
    for text, says in (
        ("spin: {probability: 1, magnitude: 1}", "spin: there is no such operation"),
        ("flip: {probability: 2, magnitude: 1}", "flip.probability: 2 is not allowed"),
        ("flip: 3", "flip: allowed is"),
        (f"flip: {{probability: 1, magnitude: {10**400}}}", "flip.magnitude: 1000"),
        ("flip: {probability: .nan, magnitude: 1}", "flip.probability: nan is not allowed"),
        ("[1, 2]", "is no policy file: not a mapping"),
        ("flip: [", "is not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_policy(AugmentConfig(policy=str(path)))
    with pytest.raises(ConfigError, match="neither a policy nor a file"):
        load_policy(AugmentConfig(policy="stronger"))


@pytest.mark.parametrize("name", ["none", "default", "strong"])
def test_a_written_policy_is_read_as_it_was(tmp_path, name):
    policy = load_policy(AugmentConfig(policy=name))
    path = tmp_path / "policy.yaml"
    write_policy(path, policy, "found")
    assert load_policy(AugmentConfig(policy=str(path))) == policy
    assert path.read_text().startswith("# found\n")
    assert list(tmp_path.iterdir()) == [path]


def test_auto_is_the_file_beside_the_shards(tmp_path):
    policy = load_policy(AugmentConfig(policy="strong"))
    write_policy(tmp_path / "policy.yaml", policy, "found")
    assert load_policy(AugmentConfig(policy="auto"), tmp_path) == policy
    clean = load_policy(AugmentConfig(policy="auto", denoise=False), tmp_path)
    assert clean == policy.without_corruption()


def test_auto_without_a_search_says_which_to_make(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        load_policy(AugmentConfig(policy="auto"), tmp_path)
    assert f"{tmp_path / 'policy.yaml'}, which is not there" in str(refusal.value)
    assert f"python -m vaetrain.augment.search data.shards={tmp_path}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
