"""FSDP2: weights, gradients and optimizer states cut over the ranks, by torch's `fully_shard`.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"; the second
version is documented with `torch.distributed.fsdp.fully_shard`. Accelerate's way to it exists for
GPUs alone and silently becomes DDP without one, so torch is called directly.
"""

from __future__ import annotations

import contextlib
import os

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vaetrain.engines.base import WEIGHT, Engine, compute_in
from vaetrain.engines.optimizers import step_where


class FsdpEngine(Engine):
    """`fsdp2`: a slice is this rank's rows of a parameter.

    As under ZeRO-3, every micro batch's gradients are averaged at once, so that no rank holds whole
    ones; and the forward pass runs under autocast on fp32 weights, as on every engine.
    """

    def _spread(self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int) -> None:
        compute_in(model, self.device, self.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        for parameter in model.parameters():
            # It refuses weights that lie channels_last; activations may still do.
            parameter.data = parameter.data.contiguous()
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.mesh = init_device_mesh(self.device.type, (self.world_size,))
        # The launcher's words for what the engine file says.
        reshard = os.environ["FSDP_RESHARD_AFTER_FORWARD"] == "true"
        for unit in units(model, int(os.environ["FSDP_MIN_NUM_PARAMS"])):
            fully_shard(unit, mesh=self.mesh, reshard_after_forward=reshard)
        self.model, self.adamw = fully_shard(model, mesh=self.mesh), optimizer
        cut = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [cut[names[parameter]] for parameter in group["params"]]

    def micro_batch(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """See `Engine.micro_batch`."""
        return contextlib.nullcontext()

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def _step(self) -> Tensor:
        self.scaler.unscale_(self.adamw)
        limit = self.clip_norm if self.clip_norm > 0 else float("inf")
        norm = whole(nn.utils.clip_grad_norm_(self.module.parameters(), limit))
        step_where(norm.isfinite(), self.adamw)
        self.scaler.update()
        self.adamw.zero_grad()
        return norm

    @property
    def loss_scale(self) -> Tensor | float:
        """See `Engine.loss_scale`."""
        enabled = self.scaler.is_enabled()
        return self.scaler.scale(torch.ones((), device=self.device)) if enabled else 1.0

    def slices(self, kind: str) -> list[Tensor]:
        """See `Engine.slices`."""
        return [own(tensor) for tensor in super().slices(kind)]

    def _masters(self) -> list[Tensor]:
        return list(self.module.parameters())

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return whole(parameter.detach() if kind == WEIGHT else self.adamw.state[parameter][kind])

    def _cut(self, parameter: nn.Parameter, kind: str, tensor: Tensor) -> None:
        state = self.adamw.state[parameter][kind]
        # Without a source rank everyone cuts its own copy, and nothing is sent.
        cut = distribute_tensor(
            tensor.to(self.device), self.mesh, state.placements, src_data_rank=None
        )
        own(state).copy_(own(cut))


def units(model: nn.Module, least: int) -> list[nn.Module]:
    """The modules whose weights are sent together, inner ones first; the rest goes with the model.

    Args:
        least: parameters that a unit has at least, without those of units within it.
    """
    found: list[nn.Module] = []
    taken: set[nn.Parameter] = set()

    def visit(module: nn.Module) -> None:
        for child in module.children():
            visit(child)
        mine = set(module.parameters()) - taken
        # A list of modules, or one that is only asked for its parts, has no forward pass that
        # could ask for its weights.
        is_called = type(module).forward is not nn.Module.forward
        if is_called and sum(parameter.numel() for parameter in mine) >= least:
            found.append(module)
            taken.update(mine)

    for child in model.children():
        visit(child)
    return found


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be cut, whole on every rank. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This rank's part, in place, of a tensor that may be cut."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor
