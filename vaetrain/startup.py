"""What happens before torch is imported: the command line, the settings, the right launcher.

`accelerate launch vaetrain/train.py --config_file ddp.yaml` hands the engine file to the script,
not to the launcher, which then starts one process (or one per GPU). So the script looks at the
engine it runs under and, where that is not the one asked for, starts itself again through
`accelerate launch --config_file ...`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from shards.command import UserError, require
from shards.remote import require_driver
from vaetrain.augment.policy import load_policy
from vaetrain.batching import cut_batch
from vaetrain.config import PRECISIONS, Experiment, describe_settings, load_experiment
from vaetrain.settings import ConfigError, read_yaml

EXPERIMENTS = Path(__file__).resolve().parents[1] / "launch" / "experiments"
RELAUNCHED = "VAETRAIN_RELAUNCHED"  # the engine file that was already applied: never twice

_LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "GROUP_", "ROLE_", "LOCAL_")
_LAUNCHER_NAMES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}
ENGINES = (
    "single",
    "ddp",
    *("zero1", "zero2", "zero3", "zero1_offload", "zero2_offload", "zero3_offload"),
    "fsdp2",
)
_KINDS = ("'NO'", "MULTI_GPU", "DEEPSPEED", "FSDP")  # Accelerate's words for them
# What an engine file may tell DeepSpeed or FSDP, but is not done here or decided elsewhere.
_NOT_HERE = {
    "deepspeed_config_file": "is not read; give zero_stage",
    "gradient_accumulation_steps": "follows from train.global_batch_size",
    "gradient_clipping": "is the experiment's optimizer.clip_norm",
    "fsdp_offload_params": "is not done by fsdp2; zero3_offload does",
    "fsdp_activation_checkpointing": "is not done",
}


@dataclass(frozen=True)
class Launch:
    """An engine as a launcher starts it."""

    engine: str
    world_size: int
    precision: str


@dataclass(frozen=True)
class Command:
    """A checked command line of the trainer."""

    experiment: Experiment
    run_dir: Path
    launch: Launch


def start(argv: list[str]) -> Command:
    """Check the command line and settle under the engine it asks for.

    Does not return when the process has to start again under another engine, or when anything is
    wrong: then one line is printed by the main process and the exit status is 2.
    """
    arguments = _parse(argv)
    try:
        experiment = load_experiment(experiment_path(arguments.experiment), arguments.settings)
        running = running_launch(os.environ)
        asked = running
        if arguments.config_file is not None:
            asked = read_engine_file(arguments.config_file)
        cut_batch(experiment.train, asked.world_size, pairs=experiment.augment.mixup_alpha > 0)
        load_policy(experiment.augment, experiment.data.folder)
        require_driver(experiment.data.folder, f"data.shards={experiment.data.shards}")
        for name in set(experiment.trackers) - {"tensorboard"}:
            require(name, "track", f"tracker={experiment.tracker}")
        if asked != running:
            _start_again(arguments.config_file, asked, running, argv)
    except UserError as error:
        refuse(str(error))
    run_dir = arguments.run_dir or Path("runs") / experiment.name
    return Command(experiment, run_dir, running)


def refuse(message: str) -> NoReturn:
    """Leave with exit status 2, the main process saying why in one line."""
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def fail(message: str) -> NoReturn:
    """Leave at once with exit status 1, this rank saying why in one line.

    For what only one rank has seen: its peers may be waiting for it in a collective, which the
    interpreter's own exit would wait for in turn; the launcher ends them.
    """
    print(f"error: rank {os.environ.get('RANK', '0')}: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="accelerate launch vaetrain/train.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a VAE of wireframes. The same command again resumes the run.",
        epilog="settings (key=default, meaning, what is allowed):\n" + describe_settings(),
    )
    parser.add_argument("--config_file", type=Path, help="engine file, e.g. of accelerate_configs/")
    parser.add_argument("--experiment", help="YAML file, or a name in launch/experiments/")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<name of the experiment>")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="override any setting")
    return parser.parse_intermixed_args(argv)


def experiment_path(name: str | None) -> Path:
    """The file of an experiment given as a path, or by a name in `launch/experiments/`."""
    path = Path(name or "default")
    named = EXPERIMENTS / f"{path}.yaml"
    return named if not path.suffix and named.is_file() else path


def running_launch(environment: Mapping[str, str]) -> Launch:
    """The engine that the launcher's environment variables of this process stand for.

    Raises ConfigError where that is none of `ENGINES`.
    """
    world_size = int(environment.get("WORLD_SIZE", "1"))
    if _is_true(environment.get("ACCELERATE_USE_DEEPSPEED")):
        prefix = "ACCELERATE_DEEPSPEED_"
        engine = _zero_name(
            environment.get(prefix + "ZERO_STAGE"),
            environment.get(prefix + "OFFLOAD_OPTIMIZER_DEVICE"),
            environment.get(prefix + "OFFLOAD_PARAM_DEVICE"),
        )
    elif _is_true(environment.get("ACCELERATE_USE_FSDP")):
        engine = f"fsdp{environment.get('FSDP_VERSION', '1')}"
    else:
        engine = "single" if world_size == 1 else "ddp"
    if engine not in ENGINES:
        raise ConfigError(f"launched for {engine}; engines are {', '.join(ENGINES)}")
    told = {
        key: environment.get(key.upper() if key.startswith("fsdp") else f"ACCELERATE_{key.upper()}")
        for key in _NOT_HERE
    }
    _refuse_what_is_not_here(told, "launched for more than the engine does")
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    return Launch(engine, world_size, precision)


def hide_engine(environment: MutableMapping[str, str]) -> None:
    """Take from Accelerate what would make it run DeepSpeed or FSDP itself."""
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        environment.pop(name, None)


def read_engine_file(path: Path) -> Launch:
    """The engine an Accelerate config file asks for.

    Raises ConfigError for a file that cannot be read, or whose launch would not do what it says.
    """
    tree = read_yaml(path, "engine file")
    for section in ("deepspeed_config", "fsdp_config"):
        told = tree.get(section) or {}
        if not isinstance(told, dict):
            raise ConfigError(f"{path}: {section} is {told!r}, which is no section")
        _refuse_what_is_not_here(told, str(path))
    engine = _engine_of(tree, path)
    processes = tree.get("num_processes")
    fits = type(processes) is int and {  # true is no number here
        "single": processes == 1,
        "ddp": processes > 1,
    }.get(engine, processes > 0)
    if not fits:
        raise ConfigError(f"{path}: num_processes is {processes!r}, which is no {engine}")
    precision = tree.get("mixed_precision") or "no"  # an unquoted `no` is YAML's false
    if precision not in PRECISIONS:
        raise ConfigError(
            f"{path}: mixed_precision is {precision!r}; allowed are {', '.join(PRECISIONS)}"
        )
    return Launch(engine, processes, precision)


def _engine_of(tree: dict[str, Any], path: Path) -> str:
    kind = tree.get("distributed_type")
    if kind == "NO":
        return "single"
    if kind == "MULTI_GPU":
        return "ddp"
    if kind == "DEEPSPEED":
        zero = tree.get("deepspeed_config") or {}
        devices = (zero.get("offload_optimizer_device"), zero.get("offload_param_device"))
        engine = _zero_name(zero.get("zero_stage"), *devices)
    elif kind == "FSDP":
        engine = f"fsdp{(tree.get('fsdp_config') or {}).get('fsdp_version', 1)}"
    else:
        raise ConfigError(f"{path}: distributed_type is {kind!r}; allowed are {', '.join(_KINDS)}")
    if engine not in ENGINES:
        raise ConfigError(f"{path}: asks for {engine}; engines are {', '.join(ENGINES)}")
    return engine


def _zero_name(stage: object, optimizer_device: object, weight_device: object) -> str:
    devices = (optimizer_device or "none", weight_device or "none")
    if devices == ("none", "none"):
        return f"zero{stage}"
    if devices == (("cpu", "cpu") if str(stage) == "3" else ("cpu", "none")):
        return f"zero{stage}_offload"
    return f"zero{stage} with optimizer offload {devices[0]} and parameter offload {devices[1]}"


def _refuse_what_is_not_here(told: Mapping[str, Any], where: str) -> None:
    for key, why in _NOT_HERE.items():
        if str(told.get(key)).lower() not in ("none", "false"):
            raise ConfigError(f"{where}: {key} {why}")


def _is_true(value: str | None) -> bool:
    return (value or "").lower() == "true"


def _start_again(path: Path, asked: Launch, running: Launch, argv: list[str]) -> NoReturn:
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    if RELAUNCHED in os.environ:
        raise ConfigError(f"{path}: asked for {asked}, and its launcher started {running}")
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
        script = " ".join([sys.argv[0], *argv])
        raise ConfigError(
            f"{path}: is not how this job was launched; on several machines type "
            f"accelerate launch --config_file {path} {script}"
        )
    if os.environ.get("RANK", "0") != "0":
        sys.exit(0)  # the first process becomes the launcher; its ranks take the others' place
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_NAMES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    environment[RELAUNCHED] = str(path)
    # Port 0 lets two runs share a machine.
    command = [*launcher, "--config_file", str(path), "--main_process_port", "0"]
    sys.stdout.flush()
    os.execve(sys.executable, [*command, os.path.abspath(sys.argv[0]), *argv], environment)
