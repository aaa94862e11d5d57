"""Engine files: the YAML files that `accelerate launch --config_file` reads, one per engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaetrain.engines.devices import count_gpus
from vaetrain.engines.launching.accelerate_keys import OTHER_TYPES
from vaetrain.engines.launching.launch_settings import LaunchSettings, Value, settings_of_file
from vaetrain.engines.spec import (
    ENGINES,
    LAUNCH_KINDS,
    EngineSpec,
    Launch,
    find_engine,
    launch_of,
)
from vaetrain.settings import ConfigError, read_yaml

CPU_PROCESSES = 2  # of a shipped engine file without a GPU
ENGINE_FILES = Path(__file__).resolve().parents[2] / "accelerate_configs"


def engine_names() -> list[str]:
    """Return the engines that have a file in `accelerate_configs/`."""
    return [name for name in ENGINES if (ENGINE_FILES / f"{name}.yaml").is_file()]


def engine_file(name: str | Path) -> Path:
    """Return the path of an engine file, given as a path or as the name of a shipped one.

    A name has no suffix and no folder: `ddp` is `accelerate_configs/ddp.yaml` of this project, in
    any current folder.
    """
    path = Path(name)
    shipped = ENGINE_FILES / f"{path}.yaml"
    return shipped if path.name == str(path) and not path.suffix and shipped.is_file() else path


def is_shipped(path: Path) -> bool:
    """Return whether a path is that of an engine file in `accelerate_configs/`."""
    return path.resolve().parent == ENGINE_FILES


def base_file(spec: EngineSpec, own: Path) -> Path:
    """Return the shipped file that starts an engine, its own or one of the same kind.

    Only keys that are checked here reach the launcher then. An engine without a shipped file of its
    kind is started by `own`, the user's file.
    """
    same = [
        name for name in engine_names() if ENGINES[name].distributed_type == spec.distributed_type
    ]
    name = spec.name if spec.name in same else next(iter(same), None)
    return own if name is None else ENGINE_FILES / f"{name}.yaml"


def default_processes(spec: EngineSpec, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes of a shipped engine file: all GPUs, or two on a CPU.

    Args:
        environment: variables of the processes, which may hide GPUs.
    """
    return spec.max_processes or count_gpus(environment) or CPU_PROCESSES


def read_engine_file(path: Path, overridden: Mapping[str, str] | None = None) -> Launch:
    """Return the launch that an engine file describes.

    The number of processes in a shipped file is a default that follows the devices, see
    `default_processes`. In any other file it is kept.

    Args:
        overridden: options of the launcher's command, which win over the file's keys.

    Raises ConfigError if the file cannot be read, a key is refused, or no engine fits it.
    """
    tree = read_yaml(path, "engine file")
    kind = _kind_of(tree, path)
    settings = settings_of_file(tree, path, overridden)
    given = settings.values.get("num_processes") or Value(1 if kind == "NO" else None, "")
    processes = _processes(given, kind, path)
    if kind in ("MULTI_GPU", "MULTI_CPU"):
        alone = processes == 1 and not is_shipped(path)
        on_cpu = kind == "MULTI_CPU"
        kind = "NO" if alone else "MULTI_GPU"
        if on_cpu:
            settings.values["use_cpu"] = Value(True, f"{path}: distributed_type")
    spec = find_engine(kind, settings, str(path))
    if not spec.allows(processes):
        raise ConfigError(_wrong_number(given, path, spec))
    _check_machines(settings, path)
    if is_shipped(path):
        processes = default_processes(spec)
    return launch_of(spec, processes, settings)


def _processes(given: Value, kind: str, path: Path) -> int:
    """Return the number of processes that an engine file or the launcher's option asks for."""
    # YAML's `true` is an int, too.
    if isinstance(given.value, bool) or not given.text.isdecimal() or int(given.text) < 1:
        spec = ENGINES["single" if kind == "NO" else "ddp"]
        raise ConfigError(_wrong_number(given, path, spec))
    return int(given.text)


def _wrong_number(given: Value, path: Path, spec: EngineSpec) -> str:
    wanted = str(spec.min_processes)
    if spec.max_processes is None:
        wanted = f"at least {wanted}"
    source = given.source or f"{path}: num_processes"
    return f"{source} is {given.value!r}; {spec.name} needs {wanted}"


def _kind_of(tree: Mapping[str, Any], path: Path) -> str:
    """Return the distributed type of a file, a key of `LAUNCH_KINDS` or MULTI_CPU."""
    kind = tree.get("distributed_type")
    allowed = [*LAUNCH_KINDS, "MULTI_CPU"]
    if not isinstance(kind, str) or kind not in allowed:
        names = ", ".join(allowed).replace("NO,", "'NO',")
        reason = OTHER_TYPES.get(str(kind))
        remedy = f"allowed are {names}" if reason is None else reason
        raise ConfigError(f"{path}: distributed_type is {kind!r}; {remedy}")
    return kind


def _check_machines(settings: LaunchSettings, path: Path) -> None:
    """Raise ConfigError if the keys of a training on several machines contradict each other."""
    machines = settings.whole("num_machines", 1)
    number = settings.whole("machine_rank", 0)
    settings.whole("main_process_port", 0)
    if number >= machines:
        raise ConfigError(
            f"{path}: machine_rank is {number}, but must be less than num_machines, "
            f"which is {machines}"
        )
    address = settings.get("main_process_ip")
    if machines == 1 and address.text not in ("none", "", "localhost", "127.0.0.1", "::1"):
        raise ConfigError(
            f"{address.source} is {address.value!r}, but num_machines is 1; "
            "correct num_machines, or remove main_process_ip"
        )
    starter = settings.get("deepspeed_multinode_launcher")
    if machines > 1 and starter.text != "standard" and "zero_stage" in settings.values:
        raise ConfigError(
            f"{path}: deepspeed_config.deepspeed_multinode_launcher is {starter.value!r}; "
            "write standard, and start every machine with launch/multinode.sh"
        )
