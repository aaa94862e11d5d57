"""The optimizer, which leaves norms and biases undecayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vaetrain.engines.config import OptimizerConfig
from vaetrain.settings import ConfigError

STEP, MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # as torch calls AdamW's state


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or what timm has by another name.

    Weights decay in matrices and kernels only. Raises ConfigError where timm is missing.
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
        from timm.optim import create_optimizer_v2
    except ImportError as error:
        raise ConfigError(
            f"optimizer.name: {config.name} comes from timm, which is not installed; "
            "pip install -e '.[optim]', or take adamw"
        ) from error
    return create_optimizer_v2(groups, opt=config.name, lr=config.lr)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state of a module's parameters, as tensors `<state>.<parameter name>`."""
    return {
        f"{key}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned; the state need not have been started."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        state = optimizer.state[parameters[name]]
        if isinstance(state.get(kind), int | float):
            state[kind] = type(state[kind])(value.item())
        elif kind in state:
            state[kind].copy_(value)
        else:
            # A count stays where the optimizer would have made it.
            device = parameters[name].device
            state[kind] = value.clone() if kind == STEP else value.to(device, copy=True)


def step_where(finite: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer step, or have nothing of it move: no weight, no moment, no count.

    torch's fused kernels read the verdict on the device, as they do for `torch.amp.GradScaler`.
    For any other optimizer the host reads it, and waits for the device.

    Args:
        finite: bool scalar on the device, whether its gradients are fit for a step.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = (~finite).float()
        optimizer.step()
        del optimizer.found_inf
    elif finite:
        optimizer.step()


def start_state(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Make the state that the optimizer would make at its first step, so that it can be loaded."""
    if not isinstance(optimizer, torch.optim.AdamW):
        _step_nowhere(optimizer, parameters)
        return
    for parameter in parameters:
        state = optimizer.state[parameter]
        # On the parameter's device, as the fused kernel wants it.
        state[STEP] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


@torch.no_grad()
def _step_nowhere(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Let an optimizer make its state by a step, and undo what the step did."""
    before = [parameter.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for parameter, value in zip(parameters, before, strict=True):
        parameter.copy_(value)
        state = optimizer.state[parameter]
        for key, entry in state.items():
            state[key] = entry.zero_() if isinstance(entry, Tensor) else type(entry)(0)
