"""Study files: their settings, baseline and folder names, and wrong files refused in one line."""

from pathlib import Path

import pytest

from launch.study import folder_name, label, load_study
from tests.support.paths import EXPERIMENTS
from vaetrain.config.experiment import load_experiment
from vaetrain.settings import ConfigError

STUDIES = [path for path in EXPERIMENTS if "\nsweep:" in path.read_text()]
# Sorted, because parallel test processes must collect the same tests in the same order.
SINGLE = [path for path in EXPERIMENTS if path not in STUDIES]


def study_of(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_study(path, list(overrides))


def test_values_override_variants_which_override_the_file_and_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("train: {epochs: 3, seed: 4}\nbeta: {max: 7}\n")
    text = f"""
name: mine
sweep:
  base: {tmp_path}/base.yaml
  variants:
    plain: {{beta.schedule: constant, beta: {{max: 2}}}}
    other: {{}}
  space: {{optimizer.lr: [1.0e-3, 1.0e-4]}}
train: {{epochs: 5}}
"""
    study = study_of(tmp_path, text, "train.log_every_images=64", "beta.warmup_epochs=2")
    settings = study.grid()
    assert [label(chosen) for chosen in settings] == [
        "plain,optimizer.lr=0.001",
        "plain,optimizer.lr=0.0001",
        "other,optimizer.lr=0.001",
        "other,optimizer.lr=0.0001",
    ]
    first, last = study.experiment_of(settings[0]), study.experiment_of(settings[-1])
    assert (first.train.epochs, first.train.seed, first.train.log_every_images) == (5, 4, 64)
    assert (first.beta.schedule, first.beta.max, first.optimizer.lr) == ("constant", 2, 1e-3)
    assert (last.beta.schedule, last.beta.max, last.optimizer.lr) == ("linear", 7, 1e-4)
    assert last.beta.warmup_epochs == 2


def test_space_may_be_nested_and_overridden(tmp_path):
    text = "sweep: {space: {beta: {max: [1.0, 2.0]}}}"
    assert study_of(tmp_path, text).space == {"beta.max": [1.0, 2.0]}
    assert study_of(tmp_path, text, "sweep.space.beta.max=[3.0]").space == {"beta.max": [3.0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "is not a study file: the section `sweep` is missing"),
        ("sweep: {}", "sweep.space: is empty"),
        (
            "sweep: {sampleur: grid}",
            "sweep.sampleur: there is no such setting; allowed are sweep.s",
        ),
        (
            "sweep: {sampler: bayes}",
            "sweep.sampler: 'bayes' is not allowed; allowed: grid | random",
        ),
        ("sweep: {seeds: [1, 1], space: {beta.max: [1]}}", "sweep.seeds: [1, 1] must be different"),
        ("sweep: {space: {beta.maxx: [1]}}", "beta.maxx=1: beta.maxx: there is no such setting"),
        ("sweep: {space: {beta.max: [1, -1]}}", "beta.max=-1: beta.max: -1.0 is not allowed"),
        ("sweep: {space: {beta.max: 1}}", "sweep.space.beta.max: 1 is not a list"),
        ("sweep: {space: {beta.max: [1, 1]}}", "sweep.space.beta.max: contains a value twice"),
        ("sweep: {space: {model.pyramid: [[1], [2]]}}", "model.pyramid: is a list of lists"),
        ("sweep: {space: {train.seed: [1, 2]}}", "sweep.space.train.seed: is not allowed"),
        ("sweep: {space: {beta.max: {low: 1, high: 2}}}", "sweep.space.beta.max: is a range, but"),
        ("sweep: {sampler: tpe, space: {beta.max: [1]}}", "sweep.trials: is required with"),
        (
            "sweep: {sampler: tpe, trials: 2, space: {beta.max: {low: 2, high: 1}}}",
            "sweep.space.beta.max: {'low': 2, 'high': 1} is not a range",
        ),
        (
            "sweep: {sampler: tpe, trials: 2, space: {beta.max: {low: 0, high: 1, log: true}}}",
            "sweep.space.beta.max: low is 0, but must be greater than 0",
        ),
        (
            "sweep: {sampler: random, trials: 2, space: {model.latent_dim: {low: 0, high: 9}}}",
            "model.latent_dim=0: model.latent_dim: 0 is not allowed; allowed: at least 1",
        ),
        (
            "sweep: {baseline: x, space: {beta.max: [1]}}",
            "sweep.baseline: no setting has the label 'x'",
        ),
        ("sweep: {variants: {plain: 3}}", "sweep.variants.plain: 3 is not a mapping"),
        ("sweep: {engine: warp, space: {beta.max: [1]}}", "there is no such engine file"),
        ("sweep: {base: nothing.yaml, space: {beta.max: [1]}}", "there is no such experiment file"),
        (
            "sweep: {engine: ddp, space: {train.global_batch_size: [16, 7]}}",
            "train.global_batch_size=7: train.global_batch_size: 7",
        ),
        (
            "sweep: {variants: {x: {loss.pixel: bce}}}",
            "x: loss.pixel: bce and model.output=sigmoid",
        ),
        ("sweep: {space: {beta.max: [1]}}\ntrain: {epochz: 1}", "train.epochz: there is no such"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as refusal:
        study_of(tmp_path, text)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_limited_grid_contains_the_baseline(tmp_path):
    text = "sweep: {trials: 2, baseline: beta.max=4, space: {beta.max: [1, 2, 3, 4]}}"
    study = study_of(tmp_path, text)
    assert [chosen["beta.max"] for chosen in study.grid()] == [4, 1]
    study = study_of(tmp_path, text, "sweep.baseline=beta.max=2")
    assert [chosen["beta.max"] for chosen in study.grid()] == [1, 2]


def test_folder_names_are_distinct_and_valid():
    assert folder_name({"beta.max": 0.1}) == "beta.max=0.1"
    awkward = [{"variant": v} for v in ("../../etc", ".hidden", "a/b", "a b", "x" * 300, "ü", "")]
    names = [folder_name(chosen) for chosen in awkward]
    assert len(set(names)) == len(names)
    assert all(len(name) < 100 and "/" not in name and name[0] != "." for name in names)


def test_definition_excludes_seeds_and_tracker(tmp_path):
    text = "sweep: {space: {beta.max: [1]}}"
    before = study_of(tmp_path, text).definition()
    assert study_of(tmp_path, text, "sweep.seeds=[0,1,2,3]", "tracker=none").definition() == before
    assert study_of(tmp_path, text, "train.epochs=3").definition() != before
    assert study_of(tmp_path, text, "sweep.metric=l1").definition() != before
    assert study_of(tmp_path, text, "sweep.metrics.kl=minimize").definition() == before


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_have_valid_settings(path):
    study = load_study(path, [])
    assert study.name == path.stem
    assert len(study.grid()) >= 2


@pytest.mark.parametrize("path", SINGLE, ids=lambda path: path.stem)
def test_shipped_experiments_have_the_names_of_their_files(path):
    assert load_experiment(path, []).name == path.stem
