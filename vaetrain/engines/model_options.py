"""Options of how a model computes: precision, memory format, recomputation, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs, convert_outputs_to_fp32
from torch import nn

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Sizes of 1, equal sizes, autocast and gradient mode are constants of a graph, so a block has more
# than one. Two or three were measured for each block.
GRAPHS_PER_BLOCK = 8


def apply_options(
    model: nn.Module,
    device: torch.device,
    *,
    precision: str = "no",
    shards_weights: bool = False,
    channels_last: bool = False,
    checkpoint_activations: bool = False,
    compile: bool = False,
    compile_backend: str | Callable[..., Any] = "inductor",
) -> None:
    """Set how a model computes; its weights and what it learns stay the same.

    Call it once, after the model was made on its device and before its optimizer, its engine or an
    average of its weights is: the memory format replaces parameters. It works on fake tensors too.

    Args:
        precision: `no`, `bf16` or `fp16`; other than `no`, the forward pass runs under autocast
            and returns fp32. Parameters, gradients and all communication stay fp32, on every
            engine, so that every engine computes the same.
        shards_weights: the engine splits the weights over the ranks. Autocast then casts a weight
            at each use. Else it keeps the half-precision copies of all weights until the forward
            pass ends, also of those whose fp32 values the engine has freed by then. The values are
            the same.
        channels_last: store kernels, and so feature maps, channels last: faster on GPUs.
        checkpoint_activations: recompute activations in the backward pass (Chen et al. 2016), in
            the modules that have an attribute of that name.
        compile: compile each module in an attribute `compiled_blocks`, see `_compile_blocks`.
        compile_backend: of `torch.compile`.
    """
    for module in model.modules():
        if hasattr(module, "checkpoint_activations"):
            module.checkpoint_activations = checkpoint_activations
    if channels_last:
        _use_channels_last(model)
    if compile:
        _compile_blocks(model, compile_backend)
    if precision in AUTOCAST_DTYPES:
        autocast = torch.autocast(
            device.type, AUTOCAST_DTYPES[precision], cache_enabled=not shards_weights
        )
        model.forward = convert_outputs_to_fp32(autocast(model.forward))


def _compile_blocks(model: nn.Module, backend: str | Callable[..., Any]) -> None:
    """Compile each block of a model in place, for all batch sizes and heights at once.

    Blocks and not the whole model: hooks of DDP, FSDP and activation checkpointing run between
    blocks, where they break no graph, and DDP's all-reduce overlaps with the backward pass.
    """
    found = [getattr(module, "compiled_blocks", ()) for module in model.modules()]
    blocks = [block for group in found for block in group]
    # Blocks of one class share their code object, for which torch counts recompilations. Beyond the
    # limit of 8 it runs the remaining blocks uncompiled, without an error.
    limit, config = GRAPHS_PER_BLOCK * len(blocks), torch._dynamo.config
    config.recompile_limit = max(limit, config.recompile_limit)
    config.accumulated_recompile_limit = max(limit, config.accumulated_recompile_limit)
    # It splits graphs at DDP's buckets and fails on symbolic sizes ("'int' object has no attribute
    # 'meta'"). Blocks are smaller than buckets.
    config.optimize_ddp = False
    for block in blocks:
        block.compile(dynamic=True, backend=backend)


def _use_channels_last(model: nn.Module) -> None:
    # `model.to(memory_format=...)` overwrites the data of parameters, which fake ones refuse.
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 4:
                data = parameter.detach().to(memory_format=torch.channels_last)
                setattr(module, name, nn.Parameter(data, parameter.requires_grad))


def ddp_options() -> DistributedDataParallelKwargs:
    """Return the arguments with which Accelerate calls DDP.

    The model's only buffer is set from the image count, to the same value on every rank; by default
    DDP would broadcast it in every forward pass.
    """
    return DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)
