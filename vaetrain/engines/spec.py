"""Engines: the table of all of them, and which one the launcher started this process for.

To add an engine, add an `EngineSpec` to `ENGINES`, a module with its subclass of `Engine`, and an
engine file `accelerate_configs/NAME.yaml`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vaetrain.engines.launching.launch_settings import (
    LaunchSettings,
    Value,
    is_true,
    settings_of_environment,
)
from vaetrain.engines.launching.rank_variables import read_ranks
from vaetrain.settings import ConfigError

PRECISIONS = ("no", "bf16", "fp16")
SHARD_SIZE, COPIES = (f"parallelism_config_dp_{name}_size" for name in ("shard", "replicate"))
FULL_SHARD = "full_shard"  # Accelerate's default of fsdp_sharding_strategy
HYBRID_SHARD = "hybrid_shard"
FSDP_UNIT = 100_000_000  # Accelerate's default of fsdp_min_num_params
WHOLE_MODEL = 2**62  # more parameters than any model has
# DeepSpeed without ZeRO splits nothing, which is data parallelism.
ZERO_STAGE_0 = {
    "zero_stage": "0",
    "offload_optimizer_device": "none",
    "offload_param_device": "none",
}


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
        hybrid: whether there are several copies of the model, each of them split over ranks.
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
    hybrid: bool = False
    separate_masters: bool = False

    @property
    def whole_state(self) -> bool:
        """Whether every rank holds the whole optimizer state."""
        return self.stage == 0

    @property
    def loads_slices(self) -> bool:
        """Whether the engine divides a model on `meta`, and then loads a rank's slices of it."""
        return self.stage == 3 and not self.separate_masters

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
        variables={
            "fsdp_version": "FSDP_VERSION",
            "fsdp_offload_params": "FSDP_OFFLOAD_PARAMS",
            "fsdp_sharding_strategy": "FSDP_SHARDING_STRATEGY",
        },
        defaults={
            "fsdp_version": "1",
            "fsdp_offload_params": "false",
            "fsdp_sharding_strategy": FULL_SHARD,
        },
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


def _fsdp(name: str, *, offload: bool = False, hybrid: bool = False) -> EngineSpec:
    return EngineSpec(
        name,
        "vaetrain.engines.fsdp.FsdpEngine",
        "FSDP",
        options={
            "fsdp_version": "2",
            "fsdp_offload_params": str(offload).lower(),
            "fsdp_sharding_strategy": HYBRID_SHARD if hybrid else FULL_SHARD,
        },
        stage=3,
        offload=offload,
        hybrid=hybrid,
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
        _fsdp("fsdp2"),
        _fsdp("fsdp2_hybrid", hybrid=True),
        _fsdp("fsdp2_offload", offload=True),
    )
}


@dataclass(frozen=True)
class Launch:
    """An engine, the number of its processes, and what its launcher was asked for.

    Attributes:
        precision: `no`, `bf16` or `fp16`.
        options: names and values of the launch's options that the engine reads.
        visible_gpus: value of CUDA_VISIBLE_DEVICES that is asked for; None: it stays.
        precision_source: engine file and key, or variable, that `precision` is from.
        clip_norm: the maximum norm of the gradients that the launcher was given, if any.
        machines: number of machines, in an engine file.
        port: port of rank 0; 0: any free port.
        notes: lines for the user about settings of the launch that have no effect.
    """

    engine: str
    world_size: int
    precision: str
    options: tuple[tuple[str, str], ...] = ()
    visible_gpus: str | None = field(default=None, compare=False)
    precision_source: str = field(default="mixed_precision", compare=False)
    clip_norm: Value | None = field(default=None, compare=False)
    machines: int = field(default=1, compare=False)
    port: int = field(default=0, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        processes = "process" if self.world_size == 1 else "processes"
        options = "".join(f", {name}={value}" for name, value in self.options)
        return (
            f"{self.engine} with {self.world_size} {processes} and precision {self.precision}"
            f"{options}"
        )

    @property
    def spec(self) -> EngineSpec:
        """The engine's entry of `ENGINES`."""
        return ENGINES[self.engine]


def running_launch(environment: Mapping[str, str]) -> Launch:
    """Return the launch that the launcher's environment variables describe.

    Raises ConfigError naming a variable that is refused, or if no engine fits them.
    """
    ranks = read_ranks(environment)
    settings = settings_of_environment(environment)
    used = (name for name, kind in LAUNCH_KINDS.items() if is_true(environment, kind.switch))
    # torchrun makes a process group even of one rank, which is ddp on one GPU.
    distributed_type = next(used, "NO" if ranks.address is None else "MULTI_GPU")
    spec = find_engine(distributed_type, settings, "the launcher")
    return launch_of(spec, ranks.world_size, settings)


def launch_of(spec: EngineSpec, world_size: int, settings: LaunchSettings) -> Launch:
    """Return the launch of an engine with the settings of an engine file or a launcher.

    Raises ConfigError naming the key or the variable of a value that is not allowed.
    """
    precision = settings.get("mixed_precision")
    text = precision.text
    if text in ("none", "false"):  # an unquoted `no` is YAML's false
        old = settings.get("fp16")  # the name in files of old versions
        precision, text = (old, "fp16") if settings.is_on("fp16") else (precision, "no")
    if text not in PRECISIONS:
        raise ConfigError(
            f"{precision.source} is {precision.value!r}; allowed are {', '.join(PRECISIONS)}"
        )
    clip_norm = settings.get("gradient_clipping")
    gpus = settings.get("gpu_ids")
    visible_gpus = None if gpus.text in ("none", "all") else str(gpus.value).replace(" ", "")
    return Launch(
        spec.name,
        world_size,
        text,
        options=_fsdp_options(spec, world_size, settings),
        visible_gpus="" if settings.is_on("use_cpu") else visible_gpus,
        precision_source=precision.source,
        clip_norm=None if clip_norm.text in ("none", "auto") else clip_norm,
        machines=settings.whole("num_machines", 1),
        port=settings.whole("main_process_port", 0),
        notes=tuple(settings.notes),
    )


def _fsdp_options(
    spec: EngineSpec, world_size: int, settings: LaunchSettings
) -> tuple[tuple[str, str], ...]:
    """Return the options of an FSDP launch that its engine reads, with their defaults."""
    shard_size = _shard_size(spec, world_size, settings)
    if spec.distributed_type != "FSDP":
        return ()
    reshard = settings.get("fsdp_reshard_after_forward")
    if reshard.text not in ("none", "true", "false"):
        raise ConfigError(f"{reshard.source} is {reshard.value!r}; write true or false")
    policy = settings.get("fsdp_auto_wrap_policy")
    if policy.text not in ("none", "size_based_wrap", "no_wrap"):
        raise ConfigError(
            f"{policy.source} is {policy.value!r}, whose layers the model does not have; write "
            "SIZE_BASED_WRAP with fsdp_min_num_params, or NO_WRAP"
        )
    size = settings.get("fsdp_min_num_params")
    number = str(FSDP_UNIT) if size.text == "none" else size.text
    if not number.isdecimal():
        raise ConfigError(f"{size.source} is {size.value!r}; write a whole number of parameters")
    number = str(WHOLE_MODEL) if policy.text == "no_wrap" else number
    is_on = "false" if reshard.text == "false" else "true"
    options = (("fsdp_reshard_after_forward", is_on), ("fsdp_min_num_params", number))
    return (*options, (SHARD_SIZE, str(shard_size))) if spec.hybrid else options


def _shard_size(spec: EngineSpec, world_size: int, settings: LaunchSettings) -> int:
    """Return the number of ranks that split one copy of the model; 1: those of a machine.

    Raises ConfigError for numbers that the world size or the engine does not allow.
    """
    given, copies = settings.get(SHARD_SIZE), settings.get(COPIES)
    size, count = settings.whole(SHARD_SIZE, 1), settings.whole(COPIES, 1)
    if not spec.hybrid:
        if size not in (1, world_size):
            raise ConfigError(
                f"{given.source} is {given.value!r}; {spec.name} splits the model over all "
                f"{world_size} ranks: write {world_size}, or remove it; fsdp2_hybrid also has "
                "copies of the model"
            )
        if count > 1:
            raise ConfigError(
                f"{copies.source} is {copies.value!r}, which {spec.name} does not know; use "
                "distributed_type: FSDP with fsdp_version: 2, or remove it"
            )
        return size
    if count > 1 and size == 1 and world_size % count == 0:
        size = world_size // count
    is_product = size * count == world_size and size > 1 if count != 1 else size > 0
    if not is_product or world_size % size:
        source = given if size != 1 else copies
        raise ConfigError(
            f"{source.source} is {source.value!r}; the product of {SHARD_SIZE}, at least 2, and "
            f"{COPIES} must be the number of ranks, {world_size}"
        )
    return size


def find_engine(distributed_type: str, settings: LaunchSettings, where: str) -> EngineSpec:
    """Return the engine that a launch's type and options select.

    Args:
        settings: those of the launch; options that are not given have their kind's default.
        where: the source of the options, for messages.

    Raises ConfigError if there is none.
    """
    kind = LAUNCH_KINDS[distributed_type]
    given = {key: settings.get(key).text for key in kind.variables}
    given = {k: kind.defaults.get(k, v) if v == "none" else v for k, v in given.items()}
    if distributed_type == "FSDP":
        _name_fsdp_options(given, settings)
    for spec in ENGINES.values():
        if spec.distributed_type == distributed_type and spec.options.items() <= given.items():
            return spec
    if given == ZERO_STAGE_0:
        return ENGINES["ddp"]
    if given.get("zero_stage") == "none":
        raise ConfigError(
            f"{where}: zero_stage of {distributed_type} is not given; write 1, 2 or 3"
        )
    shown = ", ".join(f"{key}={value}" for key, value in given.items())
    raise ConfigError(
        f"{where}: no engine has distributed_type {distributed_type} with {shown}; "
        f"engines are {', '.join(ENGINES)}"
    )


def _name_fsdp_options(given: dict[str, str], settings: LaunchSettings) -> None:
    """Replace, in place, values of an FSDP launch that have several names."""
    if given["fsdp_offload_params"] in ("no", "0"):
        given["fsdp_offload_params"] = "false"
    strategy = given["fsdp_sharding_strategy"]
    strategy = {"1": FULL_SHARD, "4": HYBRID_SHARD}.get(strategy, strategy)
    # Accelerate's own way to ask for copies of the model under FSDP2.
    has_copies = settings.whole(COPIES, 1) > 1
    if strategy == FULL_SHARD and has_copies:
        strategy = HYBRID_SHARD
    given["fsdp_sharding_strategy"] = strategy
