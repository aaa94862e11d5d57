"""The engine asked for and the engine that runs, read before torch is imported."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from tests.support.commands import MAX_CPU_SECONDS, cpu_seconds_of
from tests.support.paths import REPO
from vaetrain import startup
from vaetrain.engines import devices
from vaetrain.engines.base import Engine
from vaetrain.engines.engine_files import engine_file, engine_names, read_engine_file
from vaetrain.engines.launching.launcher_command import LauncherCommand
from vaetrain.engines.spec import ENGINES, LAUNCH_KINDS, EngineSpec, Launch, running_launch
from vaetrain.engines.start import start_engine
from vaetrain.settings import ConfigError

DDP = "accelerate_configs/ddp.yaml"
CONFIGS = REPO / "accelerate_configs"


def zero(settings: str) -> str:
    return f"distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {{{settings}}}"


def test_each_engine_file_starts_the_engine_of_its_name():
    files = {path.stem: read_engine_file(path) for path in CONFIGS.glob("*.yaml")}
    assert files.keys() == set(engine_names())
    assert files.pop("single") == Launch("single", 1, "no")
    assert files == {name: Launch(name, 2, "no") for name in ENGINES if name != "single"}


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
            "distributed_type: MULTI_GPU\nnum_processes: 0",
            "num_processes is 0; ddp needs at least 1",
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
        ({"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}, Launch("ddp", 1, "no")),
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
    assert read_engine_file(engine_file(name)) == Launch(name, processes, "no")
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
    monkeypatch, count, after, running, command, expected
):
    gpus(monkeypatch, count)
    monkeypatch.chdir(REPO)
    file = None if after is None else engine_file(after)
    assert startup.requested_launch(file, running, command) == expected


def test_several_machines_keep_their_number_of_ranks(monkeypatch):
    gpus(monkeypatch, 8)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    running = Launch("ddp", 8, "no")
    assert startup.requested_launch(engine_file("ddp"), running, launcher()) == running
    startup.require_gpus(running)
    gpus(monkeypatch, 2)
    with pytest.raises(ConfigError, match=r"4 ranks on this machine.*2 GPUs; write --processes 2"):
        startup.require_gpus(running)


def test_a_number_that_the_engine_does_not_work_with_is_refused():
    with pytest.raises(ConfigError, match="--num_processes: is 2, which single does not work"):
        startup.requested_launch(None, ONE, launcher("--num_processes", "2"))


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.delenv("GROUP_WORLD_SIZE", raising=False)
    for count in (0, 2, 8):
        gpus(monkeypatch, count)
        startup.require_gpus(TWO_RANKS)
    gpus(monkeypatch, 1)
    startup.require_gpus(ONE)
    with pytest.raises(ConfigError, match=r"2 ranks .* shows 1 GPU; write --num_processes 1, or"):
        startup.require_gpus(TWO_RANKS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    startup.require_gpus(TWO_RANKS)


def relaunch_command(monkeypatch, *arguments) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that `_relaunch` would start."""
    started = []
    monkeypatch.setattr(startup.os, "execve", lambda program, *rest: started.append(rest))
    monkeypatch.setattr(startup, "_program", lambda: ["train.py"])
    for name in (startup.RELAUNCHED, "RANK", "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    startup._relaunch(*arguments)
    return started[0]


def test_the_command_of_a_relaunch(monkeypatch):
    asked = Launch("ddp", 8, "no")
    number = ["--num_processes", "8", "--main_process_port", "0"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command, environment = relaunch_command(
        monkeypatch, Path(DDP), asked, ONE, launcher(), ["name=x"]
    )
    assert command[3:] == ["launch", "--config_file", DDP, *number, "train.py", "name=x"]
    assert "OMP_NUM_THREADS" not in environment  # was the launcher's

    before = launcher("--config_file", DDP, "--mixed_precision", "bf16")
    command, environment = relaunch_command(monkeypatch, None, asked, TWO_RANKS, before, [])
    assert command == [sys.executable, *before.before[1:], *number, "train.py"]
    assert environment[startup.RELAUNCHED]
    assert os.environ["OMP_NUM_THREADS"] == "1"
