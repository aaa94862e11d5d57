"""A wrong setting is refused in one line that names the key and the allowed values."""

import pytest

from vaetrain.config.experiment import (
    Experiment,
    as_dict,
    describe_settings,
    experiment_from,
    load_experiment,
)
from vaetrain.settings import ConfigError, flatten


def test_without_a_file_settings_have_their_defaults():
    assert load_experiment(None, []) == Experiment()


def test_a_file_overrides_defaults_and_the_command_line_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntrain: {epochs: 3, seed: 4}\n")
    experiment = load_experiment(path, ["train.seed=5", "optimizer.lr=1e-4"])
    assert (experiment.name, experiment.train.epochs, experiment.train.seed) == ("mine", 3.0, 5)
    assert experiment.optimizer.lr == 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
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
        ("data.shards=${oc.env:HOME}", "data.shards: ${...} is not supported"),
        ("model.output=levels", "loss.pixel: nll and model.output=levels must be used together"),
        ("model.output=sigmoid", "loss.pixel: bce and model.output=sigmoid must be used together"),
        ("loss.pixel=nll", "loss.pixel: nll and model.output=levels must be used together"),
        ("model.levels=1", "model.levels: 1 is not allowed; allowed: at least 2, at most 41"),
        ("data.shards=[", "data.shards: is not a YAML value"),
        ("data.partitions=0", "data.partitions: 0 is not allowed; allowed: at least 1"),
        ("data.partitions=3", "data.partitions: 3 does not divide train.global_batch_size=16; "),
        ("epochs", "'epochs': a setting must have the form key=value"),
        ("=3", "'=3': a setting must have the form key=value"),
        ("[=3", "'[=3': a setting must have the form key=value"),
        ("data.shards=\udcff", "data.shards: is not a YAML value"),
        ("data.shards=???", "data.shards: ??? is not supported"),
        ("data.val_templates={a: 1}", "data.val_templates: is a section; it must be a list"),
        ("data.val_templates=[a,{b: 1}]", "data.val_templates[1]: {'b': 1} must be a single value"),
        ('name="a\\0b"', "name: 'a\\x00b' contains control characters"),
    ],
)
def test_a_wrong_setting_on_the_command_line_is_refused(override, message):
    with pytest.raises(ConfigError) as refusal:
        load_experiment(None, [override])
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_the_timeout_must_be_longer_than_retries_of_a_download():
    remote = ["data.shards=s3://bucket/pages", "data.retry_seconds=60"]
    assert load_experiment(None, [*remote, "train.timeout_seconds=61"]).data.retry_seconds == 60
    with pytest.raises(ConfigError, match=r"data\.retry_seconds: 60 must be less than train\.tim"):
        load_experiment(None, [*remote, "train.timeout_seconds=60"])


def test_partitions_must_have_pairs_of_pages_for_mixup():
    settings = ["augment.mixup_alpha=0.4", "train.global_batch_size=12"]
    for partitions in (1, 2, 3, 6):
        load_experiment(None, [*settings, f"data.partitions={partitions}"])
    for partitions in (4, 12):
        load_experiment(None, [*settings[1:], f"data.partitions={partitions}"])
        with pytest.raises(ConfigError, match=r"data\.partitions: mixup needs pairs of pages, but"):
            load_experiment(None, [*settings, f"data.partitions={partitions}"])


def test_too_few_samples_for_a_comparison_are_refused():
    for allowed in (0, 20):
        experiment = load_experiment(None, [f"train.validation_samples={allowed}"])
        assert experiment.train.validation_samples == allowed
    with pytest.raises(ConfigError, match=r"train\.validation_samples: 19 are too few"):
        load_experiment(None, ["train.validation_samples=19"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such experiment file"),
        ("train: {epochz: 3}", "train.epochz: there is no such setting"),
        ("train: [1, 2]", "train: "),
        ("- a\n- b\n", "is no experiment file: it must be a mapping"),
        ("train: {epochs: !!python/object/apply:os.system ['true']}", "is not YAML"),
        ("a: [1", "is not YAML"),
        ("a: &a [*a]", "is not YAML (aliases are not supported)"),
        ("a: &a [1]\nb: [*a, *a]", "is not YAML (aliases are not supported)"),
        ("null: 3", "None: is not text; names must be text"),
        ("train: {seed: 2026-01-01}", "train: seed: datetime.date(2026, 1, 1) must be text"),
        ('"a\\nb": 3', "a\\nb: there is no such setting"),
        ("\x00\x01", "is not YAML"),
    ],
)
def test_a_wrong_setting_in_a_file_names_the_file(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load_experiment(path, [])
    assert str(refusal.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refusal.value)


def test_an_unquoted_no_is_a_precision(tmp_path):
    assert load_experiment(None, ["train.precision=no"]).train.precision == "no"
    path = tmp_path / "mine.yaml"
    path.write_text("train: {precision: no}\n")
    assert load_experiment(path, []).train.precision == "no"


def test_an_experiment_survives_as_dict():
    experiment = load_experiment(None, ["data.val_templates=[a, b]", "lr.cycle_epochs=2.5"])
    assert experiment_from(as_dict(experiment), "state") == experiment


def test_help_describes_every_setting():
    text = describe_settings()
    assert all(f"  {name}=" in text for name in flatten(as_dict(Experiment())))
