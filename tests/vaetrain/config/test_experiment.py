"""A wrong setting is refused in one line that names the key and says what is allowed."""

import pytest

from vaetrain.config.experiment import (
    Experiment,
    as_dict,
    describe_settings,
    experiment_from,
    load_experiment,
)
from vaetrain.settings import ConfigError, flatten


def test_without_a_file_the_defaults_hold():
    assert load_experiment(None, []) == Experiment()


def test_a_file_and_then_the_command_line_override(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntrain: {epochs: 3, seed: 4}\n")
    experiment = load_experiment(path, ["train.seed=5", "optimizer.lr=1e-4"])
    assert (experiment.name, experiment.train.epochs, experiment.train.seed) == ("mine", 3.0, 5)
    assert experiment.optimizer.lr == 1e-4


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epochs=abc", "train.epochs: 'abc' is not a number"),
        ("train.global_batch_size=abc", "train.global_batch_size: 'abc' is not a whole number"),
        ("train.max_images=2.5", "train.max_images: 2.5 is not a whole number or null"),
        ("train.micro_batch_size=true", "train.micro_batch_size: True is not"),
        ("train.epochz=3", "train.epochz: there is no such setting; allowed are train.epochs"),
        ("wrong=1", "wrong: there is no such setting"),
        ("train=3", "train: "),
        ("model.size=huge", "model.size: 'huge' is not allowed; allowed: tiny | small"),
        ("augment.level=" + "9" * 400, "augment.level: a number is too large"),
        ("train.seed=-1", "train.seed: -1 is not allowed; allowed: at least 0"),
        ("train.epochs=nan", "train.epochs: nan is not allowed; allowed: more than 0"),
        ("train.epochs=.inf", "train.epochs: inf is not allowed"),
        ("data.width=8", "data.width: 8 is not allowed; allowed: at least 16, at most 8192"),
        ("data.val_templates=x", "data.val_templates: 'x' is not"),
        ("data.shards=${oc.env:HOME}", "data.shards: ${...} is not expanded"),
        ("data.shards=[", "data.shards: is not a YAML value"),
        ("epochs", "'epochs': settings are given as key=value"),
        ("=3", "'=3': settings are given as key=value"),
        ("[=3", "'[=3': settings are given as key=value"),
        ("data.shards=\udcff", "data.shards: is not a YAML value"),
        ("data.shards=???", "data.shards: ??? is not expanded"),
        ("data.val_templates={a: 1}", "data.val_templates: is a section, and should be a list"),
        ("data.val_templates=[a,{b: 1}]", "data.val_templates[1]: {'b': 1} is no single value"),
        ('name="a\\0b"', "name: 'a\\x00b' is not allowed: it holds control characters"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(override, says):
    with pytest.raises(ConfigError) as refusal:
        load_experiment(None, [override])
    assert str(refusal.value).startswith(says)
    assert "\n" not in str(refusal.value)


def test_who_fetches_shards_must_not_be_given_up_by_the_others():
    remote = ["data.shards=s3://bucket/pages", "data.retry_seconds=60"]
    assert load_experiment(None, [*remote, "train.timeout_seconds=61"]).data.retry_seconds == 60
    with pytest.raises(ConfigError, match=r"data\.retry_seconds: 60 must be less than train\.tim"):
        load_experiment(None, [*remote, "train.timeout_seconds=60"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no such experiment file"),
        ("train: {epochz: 3}", "train.epochz: there is no such setting"),
        ("train: [1, 2]", "train: "),
        ("- a\n- b\n", "is no experiment file: not a mapping"),
        ("train: {epochs: !!python/object/apply:os.system ['true']}", "is not YAML"),
        ("a: [1", "is not YAML"),
        ("a: &a [*a]", "is not YAML (references are not followed)"),
        ("a: &a [1]\nb: [*a, *a]", "is not YAML (references are not followed)"),
        ("null: 3", "None: is not text, as names must be"),
        ("train: {seed: 2026-01-01}", "train: seed: datetime.date(2026, 1, 1) is neither text"),
        ('"a\\nb": 3', "a\\nb: there is no such setting"),
        ("\x00\x01", "is not YAML"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load_experiment(path, [])
    assert str(refusal.value).startswith(f"{path}: {says}")
    assert "\n" not in str(refusal.value)


def test_a_bare_no_is_the_word(tmp_path):
    assert load_experiment(None, ["train.precision=no"]).train.precision == "no"
    path = tmp_path / "mine.yaml"
    path.write_text("train: {precision: no}\n")
    assert load_experiment(path, []).train.precision == "no"


def test_an_experiment_survives_being_written_down():
    experiment = load_experiment(None, ["data.val_templates=[a, b]", "lr.cycle_epochs=2.5"])
    assert experiment_from(as_dict(experiment), "state") == experiment


def test_help_describes_every_setting():
    text = describe_settings()
    assert all(f"  {name}=" in text for name in flatten(as_dict(Experiment())))
