"""The engine asked for and the engine that runs, read before torch is imported."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO
from vaetrain.engines.base import Engine
from vaetrain.engines.engine_files import engine_file, engine_names, read_engine_file
from vaetrain.engines.factory import start_engine
from vaetrain.engines.spec import ENGINES, LAUNCH_KINDS, EngineSpec, Launch, running_launch
from vaetrain.settings import ConfigError

CONFIGS = REPO / "accelerate_configs"


def zero(settings: str) -> str:
    return f"distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {{{settings}}}"


def test_each_engine_file_starts_the_engine_of_its_name():
    files = {path.stem: read_engine_file(path) for path in CONFIGS.glob("*.yaml")}
    assert files.keys() == set(engine_names())
    assert files.pop("single") == Launch("single", 1, "no")
    names = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
    assert files == {name: Launch(name, 2, "no") for name in names}


@pytest.mark.parametrize("name", ENGINES)
def test_each_engine_has_a_class_and_all_options_of_its_kind(name):
    spec = ENGINES[name]
    module, _, class_name = spec.implementation.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), class_name), Engine)
    assert spec.name == name
    assert spec.options.keys() == LAUNCH_KINDS[spec.distributed_type].variables.keys()


class ToyEngine:
    def __init__(self, launch: Launch, precision: str | None, timeout: float) -> None:
        self.launch = launch


def test_an_engine_is_added_by_one_entry_of_the_table(tmp_path, monkeypatch):
    options = {"fsdp_version": "3"}
    toy = EngineSpec("toy", f"{__name__}.ToyEngine", "FSDP", options, min_processes=2, stage=3)
    monkeypatch.setitem(ENGINES, "toy", toy)
    path = tmp_path / "toy.yaml"
    path.write_text("distributed_type: FSDP\nnum_processes: 4\nfsdp_config: {fsdp_version: 3}\n")
    launch = read_engine_file(path)
    assert launch == Launch("toy", 4, "no")
    environment = {"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "3"}
    assert running_launch(environment) == launch
    engine = start_engine(launch)
    assert type(engine).__name__ == "ToyEngine"
    assert engine.launch is launch


def test_a_name_is_a_shipped_file_from_any_folder_and_a_path_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert engine_file("ddp") == CONFIGS / "ddp.yaml"
    for path in ("ddp.yaml", "folder/ddp", "nothing", "/ddp"):
        assert engine_file(path) == Path(path)


def test_an_unquoted_no_is_a_precision(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: NO\nnum_processes: 1\nmixed_precision: no\n")
    with pytest.raises(ConfigError, match="distributed_type is False; allowed are 'NO', MULTI_GPU"):
        read_engine_file(path)
    path.write_text("distributed_type: 'NO'\nnum_processes: 1\nmixed_precision: no\n")
    assert read_engine_file(path).precision == "no"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such engine file"),
        ("[1, 2]", "is no engine file: it must be a mapping"),
        ("a: [", "is not YAML"),
        ("distributed_type: MULTI_CPU\nnum_processes: 2", "distributed_type is 'MULTI_CPU'"),
        ("distributed_type: MULTI_GPU", "num_processes is None"),
        (
            "distributed_type: MULTI_GPU\nnum_processes: 1",
            "num_processes is 1; ddp needs at least 2",
        ),
        ("distributed_type: 'NO'\nnum_processes: 2", "num_processes is 2; single needs 1"),
        (
            "distributed_type: FSDP\nnum_processes: 2",
            "no engine has distributed_type FSDP with fsdp_version=1; engines are single, ddp",
        ),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}", "num_processes is None"),
        (zero("zero_stage: 0"), "DEEPSPEED with zero_stage=0, offload_optimizer_device=none"),
        (
            zero("zero_stage: 3, offload_optimizer_device: nvme"),
            "zero_stage=3, offload_optimizer_device=nvme, offload_param_device=none",
        ),
        (zero("zero_stage: 2, gradient_clipping: 1.0"), "gradient_clipping is set by the exp"),
        (zero("zero_stage: 2, gradient_accumulation_steps: 4"), "follows from train.global_batch"),
        (
            zero("zero_stage: 2, deepspeed_config_file: ds.json"),
            "deepspeed_config_file is not read",
        ),
    ],
)
def test_a_wrong_engine_file_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as refusal:
        read_engine_file(path)
    assert str(path) in str(refusal.value)


ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
OFFLOAD = "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"
OFFLOAD_WEIGHTS = "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"
FSDP = {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch("single", 1, "no")),
        ({"WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}, Launch("ddp", 2, "bf16")),
        (FSDP | {"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "false"}, Launch("fsdp2", 2, "no")),
        (ZERO | {STAGE: "2", OFFLOAD: "none"}, Launch("zero2", 1, "no")),
        (ZERO | {STAGE: "2", OFFLOAD: "cpu"}, Launch("zero2_offload", 1, "no")),
        (
            ZERO | {STAGE: "3", OFFLOAD: "cpu", OFFLOAD_WEIGHTS: "cpu"},
            Launch("zero3_offload", 1, "no"),
        ),
    ],
)
def test_the_launchers_variables_select_the_engine(environment, launch):
    assert running_launch(environment) == launch


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (FSDP, "the launcher: no engine has distributed_type FSDP with fsdp_version=1"),
        (ZERO, "distributed_type DEEPSPEED with zero_stage=None, offload"),
        (ZERO | {STAGE: "0"}, "zero_stage=0"),
        (
            ZERO | {STAGE: "1", OFFLOAD_WEIGHTS: "cpu"},
            "zero_stage=1, offload_optimizer_device=none, offload_param_device=cpu",
        ),
        (
            ZERO | {STAGE: "1", "ACCELERATE_GRADIENT_CLIPPING": "1.0"},
            "gradient_clipping is set by the exp",
        ),
        (
            FSDP | {"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "fsdp_offload_params is not supported",
        ),
    ],
)
def test_a_launch_without_an_engine_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        running_launch(environment)


def test_importing_the_package_is_quick_and_does_not_import_torch():
    code = "import sys, vaetrain, vaetrain.startup; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=3, check=False)
    assert done.returncode == 0
