"""The engine that is asked for and the one that runs, read before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from vaetrain.engines.spec import Launch, read_engine_file, running_launch
from vaetrain.settings import ConfigError

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "accelerate_configs"


def zero(settings: str) -> str:
    return f"distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {{{settings}}}"


def test_the_engine_files_say_what_they_are():
    files = {path.stem: read_engine_file(path) for path in CONFIGS.glob("*.yaml")}
    assert files.pop("single") == Launch("single", 1, "no")
    names = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
    assert files == {name: Launch(name, 2, "no") for name in names}


def test_a_bare_no_is_a_precision(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: NO\nnum_processes: 1\nmixed_precision: no\n")
    with pytest.raises(ConfigError, match="distributed_type is False"):
        read_engine_file(path)
    path.write_text("distributed_type: 'NO'\nnum_processes: 1\nmixed_precision: no\n")
    assert read_engine_file(path).precision == "no"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no such engine file"),
        ("[1, 2]", "is no engine file: not a mapping"),
        ("a: [", "is not YAML"),
        ("distributed_type: MULTI_CPU\nnum_processes: 2", "distributed_type is 'MULTI_CPU'"),
        ("distributed_type: MULTI_GPU", "num_processes is None"),
        ("distributed_type: MULTI_GPU\nnum_processes: 1", "num_processes is 1, which is no ddp"),
        ("distributed_type: 'NO'\nnum_processes: 2", "num_processes is 2, which is no single"),
        ("distributed_type: FSDP\nnum_processes: 2", "asks for fsdp1; engines are single, ddp"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}", "num_processes is None"),
        (zero("zero_stage: 0"), "asks for zero0; engines are"),
        (
            zero("zero_stage: 3, offload_optimizer_device: nvme"),
            "zero3 with optimizer offload nvme",
        ),
        (zero("zero_stage: 2, gradient_clipping: 1.0"), "gradient_clipping is the experiment's"),
        (zero("zero_stage: 2, gradient_accumulation_steps: 4"), "follows from train.global_batch"),
        (
            zero("zero_stage: 2, deepspeed_config_file: ds.json"),
            "deepspeed_config_file is not read",
        ),
    ],
)
def test_an_engine_file_that_would_not_do_what_it_says_is_refused(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says) as refusal:
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
def test_the_launchers_variables_say_what_runs(environment, launch):
    assert running_launch(environment) == launch


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (FSDP, "launched for fsdp1; engines are"),
        (ZERO, "launched for zeroNone"),
        (ZERO | {STAGE: "0"}, "launched for zero0"),
        (
            ZERO | {STAGE: "1", OFFLOAD_WEIGHTS: "cpu"},
            "zero1 with optimizer offload none and param",
        ),
        (
            ZERO | {STAGE: "1", "ACCELERATE_GRADIENT_CLIPPING": "1.0"},
            "gradient_clipping is the exp",
        ),
        (FSDP | {"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is not"),
    ],
)
def test_an_engine_that_is_not_there_is_refused(environment, says):
    with pytest.raises(ConfigError, match=says):
        running_launch(environment)


def test_importing_the_package_is_quick_and_brings_no_torch():
    code = "import sys, vaetrain, vaetrain.startup; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=3, check=False)
    assert done.returncode == 0
