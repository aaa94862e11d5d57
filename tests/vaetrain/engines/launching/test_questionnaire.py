"""Engine files and environments that Accelerate itself writes: its questionnaire and launchers."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from accelerate.commands.config import cluster
from accelerate.commands.config.default import write_basic_config
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import launch as launchers

from vaetrain.engines.engine_files import read_engine_file
from vaetrain.engines.spec import Launch, running_launch
from vaetrain.settings import ConfigError

NAMES = {
    **{"NO": 0, "MULTI_CPU": 1, "MULTI_XPU": 2, "MULTI_GPU": 4},
}
FSDP2 = (("fsdp_reshard_after_forward", "true"), ("fsdp_min_num_params", "100000000"))


def answer(monkeypatch, kind: str, answers: dict[str, object]) -> None:
    """Answer Accelerate's questions: those that begin with a key of `answers`, else the default."""

    def given(question: str, default: object) -> object:
        found = [value for start, value in answers.items() if question.startswith(start)]
        return found[0] if found else default

    def ask_field(question, convert_value=None, default=None, error_message=None):
        return given(question, default)

    def ask_options(question, options=(), convert_value=None, default=0):
        if question.startswith("Which type of machine"):
            return convert_value(NAMES[kind])
        chosen = given(question, default)
        return chosen if isinstance(chosen, str) else convert_value(chosen)

    monkeypatch.setattr(cluster, "_ask_field", ask_field)
    monkeypatch.setattr(cluster, "_ask_options", ask_options)
    monkeypatch.setattr(cluster, "is_deepspeed_available", lambda: True)


DEEPSPEED = {"Do you want to use DeepSpeed": True, "How many GPU": 2}
FSDP = {"Do you want to use FullySharded": True, "How many GPU": 2}
BY_SIZE = {"What should be your auto wrap policy": 1}


@pytest.mark.parametrize(
    ("kind", "answers", "expected"),
    [
        ("NO", {}, Launch("single", 1, "no")),
        ("NO", {"Do you want to run your training on CPU": True}, Launch("single", 1, "no")),
        ("MULTI_CPU", {"How many processes": 2}, Launch("ddp", 2, "no")),
        ("MULTI_CPU", {}, Launch("single", 1, "no")),
        ("MULTI_GPU", {"How many GPU": 2}, Launch("ddp", 2, "no")),
        ("MULTI_GPU", {"How many GPU": 2, "Do you wish to use mixed": 2}, Launch("ddp", 2, "bf16")),
        ("MULTI_GPU", {"How many GPU": 2, "Do you want to use Megatron": True}, "MEGATRON_LM"),
        ("MULTI_GPU", {"How many GPU": 2, "Would you like to enable numa": True}, "taskset"),
        ("MULTI_XPU", {"How many XPU": 2}, "only NVIDIA GPUs and CPUs are supported"),
        ("MULTI_CPU", {"Do you want accelerate to launch mpirun": True}, "mpirun_hostfile is"),
        ("NO", {"Do you wish to optimize": True}, "dynamo_backend is 'INDUCTOR'"),
        ("MULTI_GPU", DEEPSPEED, Launch("zero2", 2, "no")),
        ("MULTI_GPU", DEEPSPEED | {"What should be your DeepSpeed": 0}, Launch("ddp", 2, "no")),
        ("MULTI_GPU", DEEPSPEED | {"What should be your DeepSpeed": 3}, Launch("zero3", 2, "no")),
        ("MULTI_GPU", DEEPSPEED | {"Where to offload opt": 1}, Launch("zero2_offload", 2, "no")),
        ("MULTI_GPU", DEEPSPEED | {"Do you want to use gradient": True}, Launch("zero2", 2, "no")),
        ("MULTI_GPU", DEEPSPEED | {"How many gradient": 4}, "gradient_accumulation_steps is 4"),
        ("MULTI_GPU", DEEPSPEED | {"Do you want to specify a json": True}, "is not given"),
        ("MULTI_GPU", FSDP | BY_SIZE, Launch("fsdp2", 2, "no", FSDP2)),
        ("MULTI_GPU", FSDP, "write SIZE_BASED_WRAP with fsdp_min_num_params"),
        ("MULTI_GPU", FSDP | BY_SIZE | {"What should be your FSDP version": 0}, "fsdp_version=1"),
    ],
)
def test_the_questionnaires_files_are_read_or_refused(
    monkeypatch, tmp_path, kind, answers, expected
):
    answer(monkeypatch, kind, answers)
    path = tmp_path / "default_config.yaml"
    cluster.get_cluster_input().to_yaml_file(str(path))
    if isinstance(expected, Launch):
        assert read_engine_file(path) == expected
        assert read_engine_file(path).notes == ()
        return
    with pytest.raises(ConfigError) as refusal:
        read_engine_file(path)
    assert expected in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_config_default_is_read(tmp_path, precision):
    path = tmp_path / "default_config.json"
    write_basic_config(precision, str(path))
    assert read_engine_file(path) == Launch("single", 1, precision)


def parsed(*options: str) -> argparse.Namespace:
    """Return the launcher's options with the defaults that `accelerate launch` adds."""
    arguments = launch_command_parser().parse_args([*options, "train.py"])
    arguments.use_cpu, arguments.num_cpu_threads_per_process = arguments.cpu, 1
    arguments.num_machines, arguments.main_process_port = 1, 0
    arguments.num_processes = arguments.num_processes or 1
    arguments.mixed_precision = arguments.mixed_precision or "no"
    arguments.dynamo_backend = arguments.dynamo_backend or "no"
    arguments.deepspeed_fields_from_accelerate_config = ""
    return arguments


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), Launch("single", 1, "no")),
        (("--cpu", "--mixed_precision", "bf16"), Launch("single", 1, "bf16")),
        (("--multi_gpu", "--num_processes", "2"), Launch("ddp", 2, "no")),
        (("--use_fsdp", "--fsdp_version", "2"), Launch("fsdp2", 2, "no", FSDP2)),
        (("--use_deepspeed", "--zero_stage", "3"), Launch("zero3", 2, "no")),
        (("--use_deepspeed", "--zero_stage", "0"), Launch("ddp", 2, "no")),
        (("--use_fsdp",), "fsdp_version=1"),
        (("--use_megatron_lm",), "ACCELERATE_USE_MEGATRON_LM is 'true'"),
        (("--dynamo_backend", "inductor"), "ACCELERATE_DYNAMO_BACKEND is 'INDUCTOR'"),
        (("--enable_cpu_affinity",), "ACCELERATE_CPU_AFFINITY is '1'"),
        (
            ("--use_deepspeed", "--zero_stage", "1", "--gradient_accumulation_steps", "2"),
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is '2'",
        ),
    ],
)
def test_the_launchers_environments_are_read_or_refused(monkeypatch, options, expected):
    arguments = parsed(*options)
    if arguments.use_deepspeed:
        _, environment = launchers.prepare_deepspeed_cmd_env(arguments)
    elif arguments.multi_gpu or arguments.use_fsdp or arguments.use_megatron_lm:
        environment = launchers.prepare_multi_gpu_env(arguments)
    else:
        _, environment = launchers.prepare_simple_launcher_cmd_env(arguments)
    if {"multi_gpu", "use_fsdp", "use_deepspeed"} & {
        key for key, on in vars(arguments).items() if on
    }:
        environment |= {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        environment |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    if isinstance(expected, Launch):
        launch = running_launch(environment)
        assert (launch, launch.notes) == (expected, ())
        return
    with pytest.raises(ConfigError, match=expected):
        running_launch(environment)


def test_use_cpu_hides_the_gpus(monkeypatch, tmp_path: Path):
    _, environment = launchers.prepare_simple_launcher_cmd_env(parsed("--cpu"))
    assert running_launch(environment).visible_gpus == ""
    answer(monkeypatch, "NO", {"Do you want to run your training on CPU": True})
    path = tmp_path / "default_config.yaml"
    cluster.get_cluster_input().to_yaml_file(str(path))
    assert read_engine_file(path).visible_gpus == ""
