"""Table of everything that Accelerate's engine files and launcher can ask for.

Each key of an engine file, and each environment variable of the launcher, is in one row of `ROWS`.
The rows decide how a key is handled, and docs/engines.md shows them. Tests take the keys and the
variables from the installed Accelerate, so a key that a later version adds fails a test until it
has a row. Sources: `accelerate.commands.config`, `accelerate.commands.launch` and
`accelerate.utils.launch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ACCEPTED, MAPPED, REFUSED = "accepted", "mapped", "refused"
OFF = ("none", "false", "no", "0")
UNSET = ("none",)
FSDP1 = "is an option of FSDP1; remove it, fsdp2 decides by fsdp_reshard_after_forward"
TPU = "is for TPUs, which are not supported; remove it"
SAGEMAKER = "is for SageMaker, which is not supported; remove it"
MEGATRON = "is for Megatron-LM, which is not supported; remove the section"


@dataclass(frozen=True)
class Row:
    """Keys that are handled alike.

    Attributes:
        section: section of the engine file; empty: the top level, or no key of an engine file.
        keys: the keys in this section; with a common prefix they may also be written without it.
        handling: `ACCEPTED`: any value has no effect here. `MAPPED`: the value selects the engine
            or one of its options. `REFUSED`: only the `neutral` values are allowed.
        text: for users: the effect; of a refused key, the reason and what to write instead.
        neutral: values, in lower case, that ask for nothing.
        variables: environment variables of the keys, in the same order; empty: there is none.
        noted: whether values other than the neutral ones are answered by a note.
    """

    section: str
    keys: tuple[str, ...]
    handling: str
    text: str
    neutral: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    noted: bool = False


def _upper(prefix: str, *keys: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{key}".upper() for key in keys)


_MEGATRON = (
    *("tp_degree", "pp_degree", "num_micro_batches", "sequence_parallelism"),
    *("recompute_activations", "use_distributed_optimizer", "gradient_clipping"),
    *("use_custom_fsdp", "no_load_optim", "eod_mask_loss", "overlap_cpu_optimizer_d2h_h2d"),
    *("no_save_optim", "optimizer_cpu_offload", "use_precision_aware_optimizer"),
    *("decoder_last_pipeline_num_layers", "recompute_granularity", "recompute_method"),
    *("recompute_num_layers", "attention_backend", "expert_model_parallel_size"),
    *("context_parallel_size", "attention_dropout", "hidden_dropout"),
    *("attention_softmax_in_fp32", "expert_tensor_parallel_size", "calculate_per_token_loss"),
    "use_rotary_position_embeddings",
)
_FP8 = (
    *("use_autocast_during_eval", "margin", "interval", "format", "amax_history_len"),
    *("amax_compute_algo", "override_linear_precision", "opt_level"),
    *("enable_fsdp_float8_all_gather", "pad_inner_dim", "amax_history_length"),
    *("amax_compute_algorithm", "optimization_level"),
)
_DYNAMO = ("mode", "use_fullgraph", "use_dynamic", "use_regional_compilation")
_PARALLEL = ("tp_size", "cp_size", "sp_size")
_UNUSED_PARALLEL = (
    *("cp_backend", "cp_comm_strategy", "sp_backend", "sp_seq_length"),
    *("sp_seq_length_is_variable", "sp_attn_implementation"),
)

ROWS = (
    Row("", ("distributed_type",), MAPPED,
        "`'NO'`: `single`. `MULTI_GPU`, `MULTI_CPU`: `ddp`; with one process `single`. "
        "`DEEPSPEED`: `zero1` to `zero3`. `FSDP`: `fsdp2`, `fsdp2_hybrid`, `fsdp2_offload`"),
    Row("", ("compute_environment",), REFUSED, "must be LOCAL_MACHINE; SageMaker is not supported",
        neutral=("none", "local_machine")),
    Row("", ("num_processes", "num_machines", "machine_rank", "main_process_port"), MAPPED,
        "number of ranks, machines, this machine, and port of rank 0"),
    Row("", ("main_process_ip",), MAPPED, "address of rank 0, with several machines"),
    Row("", ("mixed_precision",), MAPPED, "`no`, `bf16` or `fp16`; `train.precision` overrides it",
        neutral=("none",), variables=("ACCELERATE_MIXED_PRECISION",)),
    Row("", ("fp16",), MAPPED, "the old name of `mixed_precision: fp16`", neutral=OFF),
    Row("", ("use_cpu",), MAPPED, "`true` trains on the CPU, as `CUDA_VISIBLE_DEVICES=` does",
        neutral=OFF, variables=("ACCELERATE_USE_CPU",)),
    Row("", ("gpu_ids",), MAPPED, "the GPUs to use, as `CUDA_VISIBLE_DEVICES`",
        neutral=("none", "all")),
    Row("", ("same_network",), ACCEPTED, "the ranks meet at the address of rank 0 in both cases"),
    Row("", ("rdzv_backend",), REFUSED, "is ignored by Accelerate in an engine file; write static, "
        "or give --rdzv_backend to accelerate launch", neutral=("none", "static")),
    Row("", ("main_training_function",), REFUSED, "is for TPUs; write main",
        neutral=("none", "main")),
    Row("", ("enable_cpu_affinity",), REFUSED, "is not supported; start with taskset or numactl, "
        "which the number of threads follows", neutral=OFF, variables=("ACCELERATE_CPU_AFFINITY",)),
    Row("", ("debug",), ACCEPTED, "checks only Accelerate's own collectives, which are not used; "
        "`TORCH_DISTRIBUTED_DEBUG=DETAIL` checks torch's", neutral=OFF,
        variables=("ACCELERATE_DEBUG_MODE",), noted=True),
    Row("", ("downcast_bf16",), REFUSED, TPU, neutral=OFF,
        variables=("ACCELERATE_DOWNCAST_BF16",)),
    Row("", ("tpu_name", "tpu_zone", "tpu_use_cluster", "tpu_use_sudo", "tpu_vm", "tpu_env",
        "commands", "command_file"), REFUSED, TPU, neutral=OFF),
    Row("", ("ec2_instance_type", "iam_role_name", "image_uri", "profile", "region",
        "base_job_name", "pytorch_version", "transformers_version", "py_version",
        "sagemaker_inputs_file", "sagemaker_metrics_file", "additional_args"), REFUSED, SAGEMAKER,
        neutral=UNSET),
    Row("", ("dynamo_backend",), REFUSED, "is not used; write 'NO', and set train.compile=true to "
        "compile the model", neutral=(*OFF, ""), variables=("ACCELERATE_DYNAMO_BACKEND",)),
    Row("dynamo_config", ("dynamo_backend",), REFUSED, "is not used; write 'NO' or remove the "
        "section, and set train.compile=true to compile the model", neutral=(*OFF, "")),
    Row("dynamo_config", tuple(f"dynamo_{key}" for key in _DYNAMO), ACCEPTED,
        "no effect, as no `dynamo_backend` is allowed",
        variables=_upper("ACCELERATE_DYNAMO_", *_DYNAMO)),
    Row("deepspeed_config", ("zero_stage",), MAPPED,
        "1 to 3: `zero1` to `zero3`; 0 is the same as `ddp`",
        variables=("ACCELERATE_DEEPSPEED_ZERO_STAGE",)),
    Row("deepspeed_config", ("offload_optimizer_device", "offload_param_device"), MAPPED,
        "`none` or `cpu`; weights only with stage 3, and then both or neither",
        neutral=UNSET, variables=("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE")),
    Row("deepspeed_config", ("offload_optimizer_nvme_path", "offload_param_nvme_path"), ACCEPTED,
        "no effect, as no offload device `nvme` is allowed",
        variables=("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_NVME_PATH",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_NVME_PATH")),
    Row("deepspeed_config", ("gradient_accumulation_steps",), REFUSED,
        "follows from train.global_batch_size and train.micro_batch_size, so set these; "
        "write 1 or auto", neutral=("none", "1", "auto"),
        variables=("ACCELERATE_GRADIENT_ACCUMULATION_STEPS",)),
    Row("deepspeed_config", ("gradient_clipping",), MAPPED,
        "must be `auto` or equal to `optimizer.clip_norm`, which sets the clipping",
        neutral=("none", "auto"), variables=("ACCELERATE_GRADIENT_CLIPPING",)),
    Row("deepspeed_config", ("zero3_init_flag",), ACCEPTED,
        "each rank builds the whole model before it is split", neutral=OFF,
        variables=("ACCELERATE_DEEPSPEED_ZERO3_INIT",), noted=True),
    Row("deepspeed_config", ("zero3_save_16bit_model",), ACCEPTED,
        "checkpoints and the final model are always whole and in fp32", neutral=OFF,
        variables=("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL",), noted=True),
    Row("deepspeed_config", ("deepspeed_config_file",), REFUSED, "is not read; remove it, and "
        "write zero_stage and offload_optimizer_device", neutral=UNSET,
        variables=("ACCELERATE_DEEPSPEED_CONFIG_FILE",)),
    Row("deepspeed_config", ("deepspeed_multinode_launcher",), MAPPED,
        "must be `standard` with several machines; no effect on one machine"),
    Row("deepspeed_config", ("deepspeed_hostfile", "deepspeed_inclusion_filter",
        "deepspeed_exclusion_filter"), REFUSED, "is not supported; start each machine with "
        "launch/multinode.sh", neutral=UNSET),
    Row("deepspeed_config", ("deepspeed_moe_layer_cls_names",), REFUSED,
        "names layers that the model does not have; remove it", neutral=("none", ""),
        variables=("ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES",)),
    Row("fsdp_config", ("fsdp_version",), MAPPED, "2: `fsdp2`; 1 is refused",
        neutral=UNSET, variables=("FSDP_VERSION",)),
    Row("fsdp_config", ("fsdp_reshard_after_forward",), MAPPED,
        "`true` or `false`: whether layers are gathered again in the backward pass",
        variables=("FSDP_RESHARD_AFTER_FORWARD",)),
    Row("fsdp_config", ("fsdp_auto_wrap_policy",), MAPPED,
        "`SIZE_BASED_WRAP`, or `NO_WRAP`, which gathers the whole model at once",
        variables=("FSDP_AUTO_WRAP_POLICY",)),
    Row("fsdp_config", ("fsdp_min_num_params",), MAPPED,
        "minimum size of a part of the model that is gathered on its own",
        variables=("FSDP_MIN_NUM_PARAMS",)),
    Row("fsdp_config", ("fsdp_transformer_layer_cls_to_wrap", "fsdp_ignored_modules"), REFUSED,
        "names layers that the model does not have; remove it, and write "
        "fsdp_auto_wrap_policy: SIZE_BASED_WRAP", neutral=("none", ""),
        variables=("FSDP_TRANSFORMER_CLS_TO_WRAP", "FSDP_IGNORED_MODULES")),
    Row("fsdp_config", ("fsdp_offload_params",), MAPPED, "`true`: `fsdp2_offload`", neutral=OFF,
        variables=("FSDP_OFFLOAD_PARAMS",)),
    Row("fsdp_config", ("fsdp_activation_checkpointing", "fsdp_activation_checkpointing_offload"),
        REFUSED, "is not supported; write false, and set train.checkpoint_activations=true",
        neutral=OFF, variables=("FSDP_ACTIVATION_CHECKPOINTING",
        "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD")),
    Row("fsdp_config", ("fsdp_sharding_strategy",), MAPPED,
        "`FULL_SHARD`: `fsdp2`; `HYBRID_SHARD`: `fsdp2_hybrid`; the others of FSDP1 are refused",
        neutral=("none", "full_shard", "1"), variables=("FSDP_SHARDING_STRATEGY",)),
    Row("fsdp_config", ("fsdp_backward_prefetch",), REFUSED, FSDP1,
        neutral=("none", "backward_pre"), variables=("FSDP_BACKWARD_PREFETCH",)),
    Row("fsdp_config", ("fsdp_forward_prefetch",), REFUSED, FSDP1, neutral=OFF,
        variables=("FSDP_FORWARD_PREFETCH",)),
    Row("fsdp_config", ("fsdp_use_orig_params",), REFUSED, FSDP1,
        neutral=("none", "true"), variables=("FSDP_USE_ORIG_PARAMS",)),
    Row("fsdp_config", ("fsdp_state_dict_type",), ACCEPTED,
        "a checkpoint has the same form for every engine", variables=("FSDP_STATE_DICT_TYPE",)),
    Row("fsdp_config", ("fsdp_cpu_ram_efficient_loading", "fsdp_sync_module_states"), ACCEPTED,
        "all ranks start from the same weights",
        variables=("FSDP_CPU_RAM_EFFICIENT_LOADING", "FSDP_SYNC_MODULE_STATES")),
    Row("fp8_config", ("fp8_backend",), REFUSED, "is not supported; remove the section",
        neutral=(*OFF, ""), variables=("ACCELERATE_FP8_BACKEND",)),
    Row("fp8_config", tuple(f"fp8_{key}" for key in _FP8), ACCEPTED,
        "no effect, as `mixed_precision: fp8` is refused",
        variables=_upper("ACCELERATE_FP8_", *_FP8)),
    Row("parallelism_config", tuple(f"parallelism_config_{key}" for key in _PARALLEL), REFUSED,
        "is not supported; write 1 or remove the section", neutral=("none", "1"),
        variables=_upper("PARALLELISM_CONFIG_", *_PARALLEL)),
    Row("parallelism_config", ("parallelism_config_dp_shard_size",), MAPPED,
        "`fsdp2_hybrid`: ranks that split one copy of the model; 1: those of a machine. `fsdp2`: "
        "must be 1 or num_processes",
        neutral=("none", "1"), variables=("PARALLELISM_CONFIG_DP_SHARD_SIZE",)),
    Row("parallelism_config", ("parallelism_config_dp_replicate_size",), MAPPED,
        "number of copies of the model; more than 1: `fsdp2_hybrid`",
        neutral=("none", "1"), variables=("PARALLELISM_CONFIG_DP_REPLICATE_SIZE",)),
    Row("parallelism_config", tuple(f"parallelism_config_{key}" for key in _UNUSED_PARALLEL),
        ACCEPTED, "no effect, as their sizes must be 1",
        variables=_upper("PARALLELISM_CONFIG_", *_UNUSED_PARALLEL)),
    Row("megatron_lm_config", tuple(f"megatron_lm_{key}" for key in _MEGATRON), REFUSED, MEGATRON,
        neutral=UNSET, variables=_upper("MEGATRON_LM_", *_MEGATRON)),
    Row("mpirun_config", ("mpirun_hostfile",), REFUSED,
        "is not supported; remove the section, and start each machine with launch/multinode.sh",
        neutral=UNSET),
    # Variables without a key of an engine file.
    Row("", (), MAPPED, "set by the launcher for `distributed_type` and `parallelism_config`",
        variables=("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP",
        "ACCELERATE_USE_PARALLELISM_CONFIG")),
    Row("", (), REFUSED, "asks for Megatron-LM, which is not supported; use ddp, zero1 to zero3 "
        "or fsdp2", neutral=OFF, variables=("ACCELERATE_USE_MEGATRON_LM",)),
    Row("", (), REFUSED, SAGEMAKER, neutral=OFF,
        variables=("ACCELERATE_USE_SAGEMAKER", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE")),
    Row("", (), REFUSED, TPU, neutral=OFF, variables=("ACCELERATE_IN_TPU_POD",)),
    Row("", (), REFUSED, "is not supported; choose GPUs by CUDA_VISIBLE_DEVICES, and the CPU by "
        "CUDA_VISIBLE_DEVICES=", neutral=UNSET, variables=("ACCELERATE_TORCH_DEVICE",)),
    Row("", (), ACCEPTED, "no effect on the training",
        variables=("ACCELERATE_ALLOW_CP_STANDALONE", "ACCELERATE_BYPASS_DEVICE_MAP",
        "ACCELERATE_CONFIG_DS_FIELDS", "ACCELERATE_DEBUG_RDV_FILE", "ACCELERATE_ENABLE_RICH",
        "ACCELERATE_INIT_INCLUDE_BUFFERS", "ACCELERATE_LOG_LEVEL", "ACCELERATE_FP8_OVERRIDE_FPROP",
        "ACCELERATE_FP8_OVERRIDE_DGRAD", "ACCELERATE_FP8_OVERRIDE_WGRAD")),
)  # fmt: skip

SECTIONS = tuple(dict.fromkeys(row.section for row in ROWS if row.section))
# Prefix that a section's keys may lack, as Accelerate adds it.
PREFIXES = {"dynamo_config": "dynamo_", "fsdp_config": "fsdp_", "fp8_config": "fp8_"}
BY_KEY = {(row.section, key): row for row in ROWS for key in row.keys}
BY_VARIABLE = {variable: row for row in ROWS for variable in row.variables}
# Sections that are read only for this distributed_type.
TYPE_OF_SECTION = {"deepspeed_config": "DEEPSPEED", "fsdp_config": "FSDP"}
# Variable that is true if the launcher passes a section.
SWITCHES = {
    "deepspeed_config": "ACCELERATE_USE_DEEPSPEED",
    "fsdp_config": "ACCELERATE_USE_FSDP",
    "parallelism_config": "ACCELERATE_USE_PARALLELISM_CONFIG",
    "megatron_lm_config": "ACCELERATE_USE_MEGATRON_LM",
}
# Keys of other kinds of launch in `distributed_type`, with what to write instead.
OTHER_TYPES = {
    "MEGATRON_LM": "use DEEPSPEED or FSDP",
    "DATA_PARALLEL": "SageMaker is not supported; use MULTI_GPU",
    "MODEL_PARALLEL": "SageMaker is not supported; use FSDP",
    "TPU": "TPUs are not supported",
    "XLA": "TPUs are not supported",
} | {
    f"MULTI_{device}": "only NVIDIA GPUs and CPUs are supported; use MULTI_GPU or MULTI_CPU"
    for device in ("NPU", "MLU", "SDAA", "MUSA", "XPU", "HPU", "NEURON")
}


def full_key(section: str, key: str) -> str:
    """Return a key with its section's prefix, which Accelerate lets an engine file omit."""
    prefix = PREFIXES.get(section, "")
    return key if key.startswith(prefix.removesuffix("_")) else prefix + key


def plain(value: Any) -> str:
    """Return a value as the table writes it: text in lower case, `none` for nothing."""
    if value is None or value in ([], {}, [""]):
        return "none"
    return str(value).strip().lower()
