"""The engine asked for and the engine that runs, read before torch is imported."""

import dataclasses
import importlib
import os
import sys
from pathlib import Path

import pytest

from tests.support.commands import MAX_CPU_SECONDS, cpu_seconds_of
from tests.support.paths import REPO
from vaetrain import startup
from vaetrain.config.experiment import Experiment, load_experiment
from vaetrain.engines import devices
from vaetrain.engines.base import Engine
from vaetrain.engines.engine_files import engine_file, engine_names, read_engine_file
from vaetrain.engines.launching.launcher_command import LauncherCommand
from vaetrain.engines.launching.rank_variables import Ranks
from vaetrain.engines.spec import ENGINES, LAUNCH_KINDS, EngineSpec, Launch, running_launch
from vaetrain.engines.start import start_engine
from vaetrain.settings import ConfigError

DDP = "accelerate_configs/ddp.yaml"
FSDP2_OPTIONS = (("fsdp_reshard_after_forward", "true"), ("fsdp_min_num_params", "1000000"))
DEFAULT_OPTIONS = (("fsdp_reshard_after_forward", "true"), ("fsdp_min_num_params", "100000000"))
RANKS = {
    **{"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}
CONFIGS = REPO / "accelerate_configs"


def zero(settings: str) -> str:
    return f"distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {{{settings}}}"


def test_each_engine_file_starts_the_engine_of_its_name():
    files = {path.stem: read_engine_file(path) for path in CONFIGS.glob("*.yaml")}
    assert files.keys() == set(engine_names())
    assert files.pop("single") == Launch("single", 1, "no")
    for name in ("fsdp2", "fsdp2_offload"):
        assert files.pop(name) == Launch(name, 2, "no", FSDP2_OPTIONS)
    machine = ("parallelism_config_dp_shard_size", "1")
    assert files.pop("fsdp2_hybrid") == Launch("fsdp2_hybrid", 2, "no", (*FSDP2_OPTIONS, machine))
    others = (name for name in ENGINES if name != "single" and not name.startswith("fsdp2"))
    assert files == {name: Launch(name, 2, "no") for name in others}


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
    assert launch == Launch("toy", 4, "no", DEFAULT_OPTIONS)
    environment = RANKS | {"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "3"}
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
        ("distributed_type: MULTI_NPU\nnum_processes: 2", "distributed_type is 'MULTI_NPU'; only"),
        ("distributed_type: MULTI_GPU", "num_processes is None"),
        (
            "distributed_type: MULTI_GPU\nnum_processes: 0",
            "num_processes is 0; ddp needs at least 1",
        ),
        ("distributed_type: 'NO'\nnum_processes: 2", "num_processes is 2; single needs 1"),
        (
            "distributed_type: FSDP\nnum_processes: 2",
            "no engine has distributed_type FSDP with fsdp_version=1, fsdp_offload_params=false",
        ),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}", "num_processes is None"),
        (zero("zero_stage: 4"), "DEEPSPEED with zero_stage=4, offload_optimizer_device=none"),
        (zero("zero3_init_flag: false"), "zero_stage of DEEPSPEED is not given"),
        (
            zero("zero_stage: 3, offload_optimizer_device: nvme"),
            "zero_stage=3, offload_optimizer_device=nvme, offload_param_device=none",
        ),
        (zero("zero_stage: 2, gradient_accumulation_steps: 4"), "follows from train.global_batch"),
        (
            zero("zero_stage: 2, deepspeed_config_file: ds.json"),
            "deepspeed_config_file is 'ds.json'; it is not read",
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
FSDP = RANKS | {"ACCELERATE_USE_FSDP": "true"}


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch("single", 1, "no")),
        (RANKS | {"ACCELERATE_MIXED_PRECISION": "bf16"}, Launch("ddp", 2, "bf16")),
        (RANKS | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, Launch("ddp", 1, "no")),
        (
            FSDP | {"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "false"},
            Launch("fsdp2", 2, "no", DEFAULT_OPTIONS),
        ),
        (ZERO | {STAGE: "0"}, Launch("ddp", 1, "no")),
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
        (ZERO, "zero_stage of DEEPSPEED is not given"),
        (
            ZERO | {STAGE: "1", OFFLOAD_WEIGHTS: "cpu"},
            "zero_stage=1, offload_optimizer_device=none, offload_param_device=cpu",
        ),
        (
            ZERO | {STAGE: "1", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is '4'; it follows from train.global",
        ),
    ],
)
def test_a_launch_without_an_engine_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        running_launch(environment)


def test_importing_the_package_is_quick_and_does_not_import_torch():
    code = "import sys, vaetrain, vaetrain.startup; sys.exit('torch' in sys.modules)"
    seconds, _ = cpu_seconds_of(sys.executable, "-c", code)
    assert seconds < MAX_CPU_SECONDS


def gpus(monkeypatch, count: int) -> None:
    """Let this machine have `count` GPUs."""
    monkeypatch.setattr(devices, "installed_gpus", lambda: (count, False))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("count", "processes"), [(0, 2), (1, 1), (8, 8)])
@pytest.mark.parametrize("name", ["ddp", "zero1", "zero3_offload", "fsdp2"])
def test_shipped_engine_files_follow_the_devices(monkeypatch, tmp_path, name, count, processes):
    gpus(monkeypatch, count)
    options = FSDP2_OPTIONS if name == "fsdp2" else ()
    assert read_engine_file(engine_file(name)) == Launch(name, processes, "no", options)
    assert read_engine_file(engine_file("single")).world_size == 1
    own = tmp_path / f"{name}.yaml"
    own.write_text(engine_file(name).read_text())
    assert read_engine_file(own).world_size == 2


def launcher(*options: str) -> LauncherCommand:
    return LauncherCommand(["python", "/bin/accelerate", "launch", *options], ["train.py"], {})


TWO_RANKS, ONE = Launch("ddp", 2, "no"), Launch("single", 1, "no")


@pytest.mark.parametrize(
    ("count", "after", "running", "command", "expected"),
    [
        # The file after the script: the launcher has started one process, or one for each GPU.
        (0, "ddp", ONE, launcher(), TWO_RANKS),
        (1, "ddp", ONE, launcher(), Launch("ddp", 1, "no")),
        (8, "ddp", Launch("ddp", 8, "no"), launcher(), Launch("ddp", 8, "no")),
        (8, "ddp", ONE, launcher("--num_processes", "4"), Launch("ddp", 4, "no")),
        (0, "ddp", ONE, launcher("--num-processes=3"), Launch("ddp", 3, "no")),
        # The file before the script: the launcher has started the two ranks that stand in it.
        (0, None, TWO_RANKS, launcher("--config_file", DDP), TWO_RANKS),
        (1, None, TWO_RANKS, launcher("--config_file", DDP), Launch("ddp", 1, "no")),
        (8, None, TWO_RANKS, launcher(f"--config_file={DDP}"), Launch("ddp", 8, "no")),
        (8, None, TWO_RANKS, launcher("--config_file", DDP, "--num_processes", "2"), TWO_RANKS),
        (8, None, TWO_RANKS, launcher("--config_file", "mine.yaml"), TWO_RANKS),
        # Plain python, and torchrun.
        (8, None, ONE, None, ONE),
        (8, None, TWO_RANKS, launcher(), TWO_RANKS),
    ],
)
def test_the_number_of_processes_follows_devices_and_wishes(
    monkeypatch, tmp_path, count, after, running, command, expected
):
    gpus(monkeypatch, count)
    (tmp_path / "accelerate_configs").symlink_to(CONFIGS)
    (tmp_path / "mine.yaml").write_text((CONFIGS / "ddp.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    file = None if after is None else engine_file(after)
    assert startup.requested_launch(file, running, command, Ranks()) == expected


@pytest.mark.parametrize("place", ["before", "after"])
def test_multi_cpu_is_ddp_on_the_cpu(monkeypatch, tmp_path, place):
    """Accelerate starts one process for MULTI_CPU, whatever the file's number is."""
    gpus(monkeypatch, 8)
    path = tmp_path / "multi_cpu.yaml"
    path.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n")
    before = launcher("--config_file", str(path)) if place == "before" else None
    asked = startup.requested_launch(None if before else path, ONE, before, Ranks())
    assert asked == TWO_RANKS
    assert startup.visible_gpus(asked, {}) == ""
    path.write_text("distributed_type: MULTI_CPU\nnum_processes: 1\n")
    assert startup.requested_launch(None if before else path, ONE, before, Ranks()) == ONE


def test_the_launchers_options_win_over_the_engine_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: fp16\n")
    options = launcher("--mixed_precision", "bf16", "--num_processes", "1")
    asked = startup.requested_launch(path, ONE, options, Ranks())
    assert asked == Launch("single", 1, "bf16")
    with pytest.raises(ConfigError, match=r"^--mixed_precision is 'fp8'; allowed are no, bf16"):
        startup.requested_launch(path, ONE, launcher("--mixed_precision", "fp8"), Ranks())


def test_a_file_of_several_machines_needs_a_launcher_on_each(monkeypatch, tmp_path):
    monkeypatch.setattr(startup, "_program", lambda: ["train.py"])
    path = tmp_path / "mine.yaml"
    text = "distributed_type: {}\nnum_processes: 4\nnum_machines: 2\nmain_process_ip: node1\n"
    path.write_text(text.format("MULTI_GPU"))
    running, ranks = Launch("ddp", 4, "no"), Ranks(world_size=4, local_world_size=2, machines=2)
    command = launcher("--config_file", str(path))
    assert startup.requested_launch(None, running, command, ranks) == running
    with pytest.raises(ConfigError, match="num_machines is 2, but this is one machine; on each"):
        startup.requested_launch(path, ONE, None, Ranks())
    path.write_text(text.format("DEEPSPEED") + "deepspeed_config: {zero_stage: 1}\n")
    with pytest.raises(ConfigError, match="deepspeed_multinode_launcher is None; write standard"):
        startup.requested_launch(None, running, command, ranks)


def experiment(*settings: str) -> Experiment:
    return load_experiment(None, list(settings))


def test_a_value_of_the_launcher_is_reported_under_its_own_name(monkeypatch, tmp_path):
    """The user has typed no setting, so no setting is named as the fault."""
    gpus(monkeypatch, 0)
    path = tmp_path / "accelerate" / "default_config.yaml"
    path.parent.mkdir()
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: fp16\n")
    command = dataclasses.replace(launcher(), environment={"HF_HOME": str(tmp_path)})
    running = running_launch(RANKS | {"ACCELERATE_MIXED_PRECISION": "fp16"})
    asked = startup.requested_launch(None, running, command, Ranks())
    for launch, source in ((asked, f"{path}: mixed_pr"), (running, "ACCELERATE_MIXED_PRECISION")):
        with pytest.raises(ConfigError, match=f"^{source}.* is fp16, which needs a GPU; write no"):
            startup.require_same(experiment(), launch)
        startup.require_same(experiment("train.precision=no"), launch)
        with pytest.raises(ConfigError, match=r"^train.precision: fp16 needs a GPU"):
            startup.require_same(experiment("train.precision=fp16"), launch)
    gpus(monkeypatch, 1)
    startup.require_same(experiment(), asked)


def test_clipping_in_an_engine_file_must_be_that_of_the_experiment(tmp_path):
    path = tmp_path / "mine.yaml"
    for text in ("1.0", "1", "auto", "none"):
        path.write_text(zero(f"zero_stage: 2, gradient_clipping: {text}"))
        startup.require_same(experiment(), read_engine_file(path))
    path.write_text(zero("zero_stage: 2, gradient_clipping: 0.5"))
    asked = read_engine_file(path)
    startup.require_same(experiment("optimizer.clip_norm=0.5"), asked)
    with pytest.raises(ConfigError, match=r"gradient_clipping is 0.5.*set optimizer.clip_norm=0.5"):
        startup.require_same(experiment(), asked)


def test_gpu_ids_must_not_contradict_the_environment(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\ngpu_ids: '1, 3'\n")
    asked = read_engine_file(path)
    for given, expected in ((None, "1,3"), ("1,3", "1,3"), ("", "")):
        environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
        assert startup.visible_gpus(asked, environment) == expected
    with pytest.raises(ConfigError, match="gpu_ids is 1,3, but CUDA_VISIBLE_DEVICES is 0"):
        startup.visible_gpus(asked, {"CUDA_VISIBLE_DEVICES": "0"})


def test_an_engine_file_replaces_the_launchers_own_settings_but_not_the_users(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ConfigError, match=r"^ACCELERATE_DYNAMO_BACKEND is 'INDUCTOR'; it is not u"):
        startup.started_launch(None, launcher())
    assert startup.started_launch(Path(DDP), launcher()) is None
    users = dataclasses.replace(launcher(), environment=dict(os.environ))
    for command in (users, None):
        with pytest.raises(ConfigError, match=r"set train.compile=true"):
            startup.started_launch(Path(DDP), command)


def test_several_machines_keep_their_number_of_ranks(monkeypatch):
    gpus(monkeypatch, 8)
    ranks = Ranks(world_size=8, local_world_size=4, machines=2)
    running = Launch("ddp", 8, "no")
    assert startup.requested_launch(engine_file("ddp"), running, launcher(), ranks) == running
    startup.require_gpus(running, ranks)
    gpus(monkeypatch, 2)
    with pytest.raises(ConfigError, match=r"4 ranks on this machine.*2 GPUs; write --processes 2"):
        startup.require_gpus(running, ranks)


def test_a_number_that_the_engine_does_not_work_with_is_refused():
    with pytest.raises(ConfigError, match="--num_processes: is 2, which single does not work"):
        startup.requested_launch(None, ONE, launcher("--num_processes", "2"), Ranks())


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    for count in (0, 2, 8):
        gpus(monkeypatch, count)
        startup.require_gpus(TWO_RANKS, Ranks())
    gpus(monkeypatch, 1)
    startup.require_gpus(ONE, Ranks())
    with pytest.raises(ConfigError, match=r"2 ranks .* shows 1 GPU; write --num_processes 1, or"):
        startup.require_gpus(TWO_RANKS, Ranks())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    startup.require_gpus(TWO_RANKS, Ranks())


def relaunch_command(monkeypatch, *arguments) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that `_relaunch` would start."""
    started = []
    monkeypatch.setattr(startup.os, "execve", lambda program, *rest: started.append(rest))
    monkeypatch.setattr(startup, "_program", lambda: ["train.py"])
    monkeypatch.delenv(startup.RELAUNCHED, raising=False)
    startup._relaunch(*arguments)
    return started[0]


def test_the_command_of_a_relaunch(monkeypatch):
    asked = Launch("ddp", 8, "no")
    number = ["--num_processes", "8", "--main_process_port", "0"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command, environment = relaunch_command(
        monkeypatch, Path("mine.yaml"), asked, ONE, launcher(), Ranks(), ["name=x"]
    )
    # The shipped file of the engine is used, so that only checked keys reach the launcher.
    file, precision = ["--config_file", str(CONFIGS / "ddp.yaml")], ["--mixed_precision", "no"]
    assert command[3:] == ["launch", *file, *number, *precision, "train.py", "name=x"]
    assert "OMP_NUM_THREADS" not in environment  # was the launcher's

    before = launcher("--config_file", DDP, "--mixed_precision", "bf16")
    command, environment = relaunch_command(
        monkeypatch, None, asked, TWO_RANKS, before, Ranks(), []
    )
    assert command == [sys.executable, *before.before[1:], *number, "--multi_gpu", "train.py"]
    assert environment[startup.RELAUNCHED]
    assert os.environ["OMP_NUM_THREADS"] == "1"
