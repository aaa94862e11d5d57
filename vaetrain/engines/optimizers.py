"""The optimizer, gradient clipping, skipped steps, and the optimizer's state as tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from vaetrain.engines.config import OptimizerConfig
from vaetrain.settings import ConfigError

STEP, MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # torch's names of AdamW's state


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019), or the optimizer of timm that the config names.

    Matrices and kernels decay; norms and biases do not. Raises ConfigError if timm is needed and
    missing.
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
            f"optimizer.name: {config.name} needs timm, which is not installed; "
            "pip install -e '.[optim]', or use adamw"
        ) from error
    return create_optimizer_v2(groups, opt=config.name, lr=config.lr)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients, in place, so that their global L2 norm is at most `max_norm`.

    Args:
        max_norm: 0: no clipping, the norm is only measured.

    Returns: the norm before clipping, a scalar on the device; not finite if a gradient is not.
    """
    return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state of a module as tensors named `<state>.<parameter name>`."""
    return {
        f"{key}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore the output of `optimizer_tensors`; the optimizer's state may still be empty."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        state = optimizer.state[parameters[name]]
        if isinstance(state.get(kind), int | float):
            state[kind] = type(state[kind])(value.item())
        elif kind in state:
            state[kind].copy_(value)
        else:
            # Step counts stay on the host, where the optimizer creates them.
            device = parameters[name].device
            state[kind] = value.clone() if kind == STEP else value.to(device, copy=True)


def step_where(finite: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step an optimizer, or skip the step: weights, moments and step count stay as they are.

    torch's fused kernels read `finite` on the device, as they do for `torch.amp.GradScaler`. For
    other optimizers the host reads it, which waits for the device.

    Args:
        finite: bool scalar on the device, whether all gradients are finite.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        # torch would copy it to parameters in host memory without waiting for the device, so that
        # the kernel could read it too early.
        first = next(p for group in optimizer.param_groups for p in group["params"])
        optimizer.found_inf = (~finite).float().to(first.device)
        optimizer.step()
        del optimizer.found_inf
    elif finite:
        optimizer.step()


def start_state(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Create the state that the optimizer would create in its first step.

    A checkpoint can be loaded into it then.
    """
    if not isinstance(optimizer, torch.optim.AdamW):
        _state_of_undone_step(optimizer, parameters)
        return
    for parameter in parameters:
        state = optimizer.state[parameter]
        # The fused kernel needs the count on the parameter's device.
        state[STEP] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


@torch.no_grad()
def _state_of_undone_step(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
    """Create an optimizer's state by a step with zero gradients, then undo the step."""
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
