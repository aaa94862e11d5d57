"""Engines: the table of all of them, and which one the launcher started this process for.

To add an engine, add an `EngineSpec` to `ENGINES`, a module with its subclass of `Engine`, and an
engine file `accelerate_configs/NAME.yaml`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from vaetrain.engines.launcher_command import is_torchrun
from vaetrain.settings import ConfigError

PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class EngineSpec:
    """One engine: its class, how it is recognised, and what it splits over the ranks.

    Attributes:
        name: the engine's name, also that of its file in `accelerate_configs/`.
        implementation: dotted path of its subclass of `Engine`, imported by `start_engine`.
        distributed_type: Accelerate's name of the kind of launch, a key of `LAUNCH_KINDS`.
        options: the launch's options that select this engine, as `LAUNCH_KINDS` lists them.
        min_processes, max_processes: the world sizes it works with; None: no upper limit.
        stage: what is split over the ranks, numbered as ZeRO's stages: 0 nothing, 1 the optimizer
            state, 2 gradients as well, 3 weights as well.
        offload: whether the optimizer state, and in stage 3 the weights, lie in host memory.
        separate_masters: whether the optimizer steps a copy of its slices of the weights, separate
            from the weights of the forward pass.
    """

    name: str
    implementation: str
    distributed_type: str
    options: Mapping[str, str] = field(default_factory=dict)
    min_processes: int = 1
    max_processes: int | None = None
    stage: int = 0
    offload: bool = False
    separate_masters: bool = False

    @property
    def whole_state(self) -> bool:
        """Whether every rank holds the whole optimizer state."""
        return self.stage == 0

    @property
    def has_process_group(self) -> bool:
        """Whether a process group exists, be it of one rank."""
        return self.distributed_type != "NO"

    def allows(self, world_size: int) -> bool:
        """Return whether the engine works with so many processes."""
        maximum = world_size if self.max_processes is None else self.max_processes
        return self.min_processes <= world_size <= maximum


@dataclass(frozen=True)
class LaunchKind:
    """One kind of launch that Accelerate knows, and where its options are written.

    Attributes:
        switch: environment variable that is `true` under this kind; None: there is none.
        section: the engine file's section of options; None: there is none.
        variables: the environment variable of each option that tells engines apart.
        defaults: values of options that are not given.
    """

    switch: str | None = None
    section: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)


LAUNCH_KINDS = {
    "NO": LaunchKind(),
    "MULTI_GPU": LaunchKind(),
    "DEEPSPEED": LaunchKind(
        switch="ACCELERATE_USE_DEEPSPEED",
        section="deepspeed_config",
        variables={
            "zero_stage": "ACCELERATE_DEEPSPEED_ZERO_STAGE",
            "offload_optimizer_device": "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
            "offload_param_device": "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
        },
        defaults={"offload_optimizer_device": "none", "offload_param_device": "none"},
    ),
    "FSDP": LaunchKind(
        switch="ACCELERATE_USE_FSDP",
        section="fsdp_config",
        variables={"fsdp_version": "FSDP_VERSION"},
        defaults={"fsdp_version": "1"},
    ),
}

# Options that are refused in an engine file, because the trainer ignores them or sets them itself:
# a run would differ from what its file says. Each with its environment variable and the reason.
UNSUPPORTED = {
    "deepspeed_config_file": (
        "ACCELERATE_DEEPSPEED_CONFIG_FILE",
        "is not read; give zero_stage",
    ),
    "gradient_accumulation_steps": (
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "follows from train.global_batch_size",
    ),
    "gradient_clipping": (
        "ACCELERATE_GRADIENT_CLIPPING",
        "is set by the experiment's optimizer.clip_norm",
    ),
    "fsdp_offload_params": (
        "FSDP_OFFLOAD_PARAMS",
        "is not supported by fsdp2; use zero3_offload",
    ),
    "fsdp_activation_checkpointing": (
        "FSDP_ACTIVATION_CHECKPOINTING",
        "is not supported; use train.checkpoint_activations",
    ),
}


def _zero(stage: int, *, offload: bool = False) -> EngineSpec:
    host = {True: "cpu", False: "none"}
    return EngineSpec(
        f"zero{stage}_offload" if offload else f"zero{stage}",
        "vaetrain.engines.zero.ZeroEngine",
        "DEEPSPEED",
        options={
            "zero_stage": str(stage),
            "offload_optimizer_device": host[offload],
            "offload_param_device": host[offload and stage == 3],
        },
        stage=stage,
        offload=offload,
        separate_masters=True,
    )


_REPLICATED = "vaetrain.engines.replicated.ReplicatedEngine"
ENGINES: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        EngineSpec("single", _REPLICATED, "NO", max_processes=1),
        EngineSpec("ddp", _REPLICATED, "MULTI_GPU"),
        _zero(1),
        _zero(2),
        _zero(3),
        _zero(1, offload=True),
        _zero(2, offload=True),
        _zero(3, offload=True),
        EngineSpec(
            "fsdp2",
            "vaetrain.engines.fsdp.FsdpEngine",
            "FSDP",
            options={"fsdp_version": "2"},
            stage=3,
        ),
    )
}


@dataclass(frozen=True)
class Launch:
    """An engine, the number of its processes, and the precision that the launcher was given."""

    engine: str
    world_size: int
    precision: str

    def __str__(self) -> str:
        processes = "process" if self.world_size == 1 else "processes"
        return f"{self.engine} with {self.world_size} {processes} and precision {self.precision}"

    @property
    def spec(self) -> EngineSpec:
        """The engine's entry of `ENGINES`."""
        return ENGINES[self.engine]


def running_launch(environment: Mapping[str, str]) -> Launch:
    """Return the launch that the launcher's environment variables describe.

    Raises ConfigError if no engine fits them.
    """
    world_size = int(environment.get("WORLD_SIZE", "1"))
    used = (name for name, kind in LAUNCH_KINDS.items() if _is_set(environment, kind.switch))
    # torchrun makes a process group even of one rank, which is ddp on one GPU.
    grouped = world_size > 1 or is_torchrun(environment)
    distributed_type = next(used, "MULTI_GPU" if grouped else "NO")
    kind = LAUNCH_KINDS[distributed_type]
    options = {option: environment.get(name) for option, name in kind.variables.items()}
    spec = find_engine(distributed_type, options, "the launcher")
    unsupported = {key: environment.get(name) for key, (name, _) in UNSUPPORTED.items()}
    refuse_unsupported(unsupported, "the launcher")
    return Launch(spec.name, world_size, environment.get("ACCELERATE_MIXED_PRECISION", "no"))


def find_engine(distributed_type: str, options: Mapping[str, Any], where: str) -> EngineSpec:
    """Return the engine that a launch's type and options select.

    Args:
        options: values of the kind's `variables`; None and missing ones get their default.
        where: the source of the options, for messages.

    Raises ConfigError if there is none.
    """
    kind = LAUNCH_KINDS[distributed_type]
    given = {key: _text(options.get(key), kind.defaults.get(key)) for key in kind.variables}
    for spec in ENGINES.values():
        if spec.distributed_type == distributed_type and spec.options == given:
            return spec
    shown = ", ".join(f"{key}={value}" for key, value in given.items())
    raise ConfigError(
        f"{where}: no engine has distributed_type {distributed_type} with {shown}; "
        f"engines are {', '.join(ENGINES)}"
    )


def refuse_unsupported(options: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if an option in `UNSUPPORTED` is used."""
    for key, (_, reason) in UNSUPPORTED.items():
        if str(options.get(key)).lower() not in ("none", "false"):
            raise ConfigError(f"{where}: {key} {reason}")


def hide_engine(environment: MutableMapping[str, str]) -> None:
    """Remove the variables that would make Accelerate run DeepSpeed or FSDP itself."""
    for kind in LAUNCH_KINDS.values():
        if kind.switch is not None:
            environment.pop(kind.switch, None)


def _text(value: Any, default: str | None) -> str:
    return str(default if value is None else value)


def _is_set(environment: Mapping[str, str], name: str | None) -> bool:
    return name is not None and environment.get(name, "").lower() == "true"
