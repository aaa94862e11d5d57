"""Options of how a model computes: precision, memory format, recomputation, compilation."""

from __future__ import annotations

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def apply_options(
    model: nn.Module,
    device: torch.device,
    *,
    precision: str = "no",
    channels_last: bool = False,
    checkpoint_activations: bool = False,
    compile: bool = False,
) -> None:
    """Set how a model computes; its weights and what it learns stay the same.

    Call it once, after the model was made on its device and before its optimizer, its engine or an
    average of its weights is: the memory format replaces parameters. It works on fake tensors too.

    Args:
        precision: `no`, `bf16` or `fp16`; other than `no`, the forward pass runs under autocast
            and returns fp32. Parameters, gradients and all communication stay fp32, on every
            engine, so that every engine computes the same.
        channels_last: store kernels, and so feature maps, channels last: faster on GPUs.
        checkpoint_activations: recompute activations in the backward pass (Chen et al. 2016), in
            the modules that have an attribute of that name.
        compile: compile the model with `torch.compile`, for all sizes of batches at once.
    """
    for module in model.modules():
        if hasattr(module, "checkpoint_activations"):
            module.checkpoint_activations = checkpoint_activations
    if channels_last:
        _use_channels_last(model)
    if compile:
        model.compile(dynamic=True)
    if precision in AUTOCAST_DTYPES:
        autocast = torch.autocast(device.type, AUTOCAST_DTYPES[precision])
        model.forward = convert_outputs_to_fp32(autocast(model.forward))


def _use_channels_last(model: nn.Module) -> None:
    # `model.to(memory_format=...)` overwrites the data of parameters, which fake ones refuse.
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 4:
                data = parameter.detach().to(memory_format=torch.channels_last)
                setattr(module, name, nn.Parameter(data, parameter.requires_grad))
