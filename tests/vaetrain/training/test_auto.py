"""Settings with the value `auto`."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from tests.support.paths import REPO
from tests.vaetrain.artifacts.test_checkpoint import a_checkpoint
from vaetrain.artifacts.checkpoint import STATE_KEYS
from vaetrain.artifacts.same_run import check_same_experiment
from vaetrain.config.command import Command
from vaetrain.config.experiment import as_dict, load_experiment
from vaetrain.engines.spec import Launch
from vaetrain.engines.start import start_engine
from vaetrain.settings import AUTO, ConfigError
from vaetrain.training import auto, build
from vaetrain.training.auto import resolve_auto
from vaetrain.training.build import resolve_device_options

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ALL_AUTO = ["train.precision=auto", "train.channels_last=auto", "train.compile=auto"]


@pytest.fixture
def good_gpu(monkeypatch):
    """Pretend that the GPU computes in bf16 and compiles."""
    monkeypatch.setattr(auto, "automatic_precision", lambda device: "bf16")
    monkeypatch.setattr(auto, "can_compile", lambda device: True)


@pytest.mark.parametrize("value", ["true", "false", "auto"])
@pytest.mark.parametrize("name", ["channels_last", "compile"])
def test_switches_take_true_false_and_auto(tmp_path, name, value):
    path = tmp_path / "mine.yaml"
    path.write_text(f"train: {{{name}: {value}}}\n")
    expected = {"true": True, "false": False, "auto": "auto"}[value]
    for experiment in (load_experiment(path, []), load_experiment(None, [f"train.{name}={value}"])):
        assert getattr(experiment.train, name) is expected or value == "auto"
        assert getattr(experiment.train, name) == expected


@pytest.mark.parametrize("value", ["maybe", "1", "'true'", "0.5"])
def test_switches_refuse_other_values(value):
    with pytest.raises(ConfigError, match=r"^train\.compile: "):
        load_experiment(None, [f"train.compile={value}"])


def test_the_base_experiment_leaves_all_three_to_the_device():
    train = load_experiment(REPO / "launch" / "experiments" / "base.yaml", []).train
    assert (train.precision, train.channels_last, train.compile) == ("auto",) * 3


def test_auto_is_off_on_a_cpu():
    train, chosen = resolve_auto(load_experiment(None, ALL_AUTO).train, CPU)
    assert (train.precision, train.channels_last, train.compile) == ("no", False, False)
    assert chosen == {
        "train.precision": "no",
        "train.channels_last": False,
        "train.compile": False,
    }


def test_auto_uses_what_a_gpu_supports(good_gpu):
    train, _ = resolve_auto(load_experiment(None, ALL_AUTO).train, CUDA)
    assert (train.precision, train.channels_last, train.compile) == ("bf16", True, True)
    train, _ = resolve_auto(load_experiment(None, ALL_AUTO).train, CUDA, compiles=False)
    assert train.compile is False


def test_explicit_values_stay(good_gpu):
    given = load_experiment(None, ["train.precision=fp16"]).train
    assert resolve_auto(given, CUDA) == (given, {})


def test_auto_is_refused_where_it_resolves_differently_on_resume(good_gpu):
    asked = load_experiment(None, ALL_AUTO)
    asked.train, _ = resolve_auto(asked.train, CUDA)
    saved = as_dict(asked)
    now = load_experiment(None, ALL_AUTO)
    now.train, chosen = resolve_auto(now.train, CPU, compiles=False)
    now.train.compile = False
    now.train.precision = "no"
    with pytest.raises(ConfigError) as refusal:
        check_same_experiment(saved, now, chosen)
    message = str(refusal.value)
    assert "train.precision (was 'bf16', now 'no')" in message
    assert "train.compile (was True, now False)" in message
    assert "auto chose" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "there", "here"),
    [("precision", "bf16", "no"), ("channels_last", True, False), ("compile", True, False)],
)
def test_no_run_is_built_from_a_checkpoint_where_auto_was_different(
    tmp_path, shards, monkeypatch, name, there, here
):
    """`train.precision` may change on resume, unless `auto` has changed it."""
    experiment = load_experiment(
        None, [f"data.shards={shards}", "data.workers=0", "model.start=random", *ALL_AUTO]
    )
    train = {"precision": "no", "channels_last": False, "compile": False} | {name: there}
    on_gpu = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **train))
    state = dict.fromkeys(STATE_KEYS) | {"experiment": as_dict(on_gpu)}
    saved = dataclasses.replace(a_checkpoint(16), state=state)
    monkeypatch.setattr(build, "find_checkpoint", lambda *_: saved)
    launch = Launch("single", 1, "no")
    command = Command(experiment, tmp_path / "run", launch)
    refusal = rf"^the run was started .* train\.{name} \(was {there!r}, now {here!r}\) [^\n]*$"
    with pytest.raises(ConfigError, match=refusal):
        build.build_run(command, start_engine(launch, AUTO))


def test_an_explicit_precision_may_change_on_resume():
    saved = as_dict(load_experiment(None, ["train.precision=bf16"]))
    check_same_experiment(saved, load_experiment(None, ["train.precision=no"]))


class FakeEngine(SimpleNamespace):
    """The attributes of an engine that resolve options."""

    compiles_automatically = False

    def require_equal(self, number: int, message: str) -> None:
        """Accept any number: there is one rank."""


def test_chosen_values_are_logged():
    lines: list[str] = []
    engine = FakeEngine(device=CPU, compiles=True, precision="no", log=lines.append)
    experiment, _ = resolve_device_options(load_experiment(None, ALL_AUTO), engine)
    assert experiment.train.compile is False
    assert lines == [
        "train.precision=auto is no on cpu",
        "train.channels_last=auto is false on cpu",
        "train.compile=auto is false on cpu",
    ]


def test_an_engine_that_cannot_compile_refuses_it_in_one_line():
    engine = FakeEngine(device=CPU, compiles=False, precision="no", name="zero3", log=print)
    with pytest.raises(ConfigError, match=r"^train\.compile: not supported by zero3[^\n]*$"):
        resolve_device_options(load_experiment(None, ["train.compile=true"]), engine)
