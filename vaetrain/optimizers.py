"""The optimizer, which leaves norms and biases undecayed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vaetrain.config import OptimizerConfig
from vaetrain.settings import ConfigError

STEP, MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # as torch calls AdamW's state


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or what timm has by a name.

    Weights decay in matrices and kernels only. Raises ConfigError for a name nobody knows.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    undecayed = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )
    return _from_timm(groups, config)


def _from_timm(groups: list[dict], config: OptimizerConfig) -> torch.optim.Optimizer:
    try:
        from timm.optim import create_optimizer_v2, list_optimizers
    except ImportError as error:
        raise ConfigError(
            f"optimizer.name: {config.name} comes from timm, which is not installed; "
            "pip install timm, or take adamw"
        ) from error
    if config.name not in list_optimizers():
        raise ConfigError(
            f"optimizer.name: {config.name!r} is not allowed; allowed: "
            + " | ".join(list_optimizers())
        )
    return create_optimizer_v2(groups, opt=config.name, lr=config.lr)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors for a module's parameters, as `<state>.<parameter name>`."""
    return {
        f"{key}.{name}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        by_name.setdefault(name, {})[kind] = value
    names = {parameter: name for name, parameter in module.named_parameters()}
    whole = optimizer.state_dict()
    for ours, theirs in zip(optimizer.param_groups, whole["param_groups"], strict=True):
        for parameter, number in zip(ours["params"], theirs["params"], strict=True):
            if names[parameter] in by_name:
                whole["state"][number] = by_name[names[parameter]]
    # The optimizer itself knows which of its tensors belong on the device.
    optimizer.load_state_dict(whole)


def start_state(adamw: torch.optim.AdamW, parameters: Iterable[Tensor]) -> None:
    """Make the state that AdamW would make at its first step, so that it can be loaded before."""
    for parameter in parameters:
        state = adamw.state[parameter]
        # On the parameter's device, as the fused kernel wants it.
        state[STEP] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
