"""Engine files: the YAML files that `accelerate launch --config_file` reads, one per engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaetrain.engines.devices import count_gpus
from vaetrain.engines.spec import (
    ENGINES,
    LAUNCH_KINDS,
    PRECISIONS,
    EngineSpec,
    Launch,
    find_engine,
    refuse_unsupported,
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


def default_processes(spec: EngineSpec, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes of a shipped engine file: all GPUs, or two on a CPU.

    Args:
        environment: variables of the processes, which may hide GPUs.
    """
    return spec.max_processes or count_gpus(environment) or CPU_PROCESSES


def read_engine_file(path: Path) -> Launch:
    """Return the launch that an engine file describes.

    The number of processes in a shipped file is a default that follows the devices, see
    `default_processes`. In any other file it is kept.

    Raises ConfigError if the file cannot be read or no engine fits it.
    """
    tree = read_yaml(path, "engine file")
    for kind in LAUNCH_KINDS.values():
        if kind.section is not None:
            refuse_unsupported(_section(tree, kind.section, path), str(path))
    spec = _engine_of(tree, path)
    processes = tree.get("num_processes")
    if type(processes) is not int or not spec.allows(processes):  # YAML's `true` is an int, too
        wanted = str(spec.min_processes)
        if spec.max_processes is None:
            wanted = f"at least {wanted}"
        raise ConfigError(f"{path}: num_processes is {processes!r}; {spec.name} needs {wanted}")
    if is_shipped(path):
        processes = default_processes(spec)
    precision = tree.get("mixed_precision") or "no"  # an unquoted `no` is YAML's false
    if precision not in PRECISIONS:
        raise ConfigError(
            f"{path}: mixed_precision is {precision!r}; allowed are {', '.join(PRECISIONS)}"
        )
    return Launch(spec.name, processes, precision)


def _engine_of(tree: dict[str, Any], path: Path) -> EngineSpec:
    distributed_type = tree.get("distributed_type")
    if not isinstance(distributed_type, str) or distributed_type not in LAUNCH_KINDS:
        allowed = ", ".join(LAUNCH_KINDS).replace("NO,", "'NO',")
        raise ConfigError(
            f"{path}: distributed_type is {distributed_type!r}; allowed are {allowed}"
        )
    section = LAUNCH_KINDS[distributed_type].section
    options = {} if section is None else _section(tree, section, path)
    return find_engine(distributed_type, options, str(path))


def _section(tree: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = tree.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {name} is {section!r}; it must be a section")
    return section
