"""Engines: which there are, and which one a launcher or an engine file asks for."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaetrain.settings import ConfigError, read_yaml

PRECISIONS = ("no", "bf16", "fp16")


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
