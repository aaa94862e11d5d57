"""FSDP2: weights, gradients and optimizer states split over the ranks by torch's `fully_shard`.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"; the second
version is documented with `torch.distributed.fsdp.fully_shard`, hybrid sharding in section 3.2.2 of
the paper. Accelerate's FSDP works on GPUs only and silently becomes DDP without one, so torch is
called directly.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from vaetrain.engines.base import GRACE_SECONDS, WEIGHT
from vaetrain.engines.launching.rank_variables import read_ranks
from vaetrain.engines.slices import Split
from vaetrain.engines.spec import SHARD_SIZE
from vaetrain.engines.torch_engine import TorchEngine
from vaetrain.settings import ConfigError


class FsdpEngine(TorchEngine):
    """`fsdp2`, `fsdp2_hybrid`, `fsdp2_offload`: a slice is this rank's rows of a parameter.

    Under `fsdp2_hybrid` the ranks of a machine, or as many as the engine file says, split one copy
    of the model. Weights are gathered among them. The gradients of a rank's slices are all-reduced
    with the ranks that hold the same slices of the other copies, once a step.

    Between the micro batches of a step, a rank holds the gradients of the whole model, unless they
    are reduced in every micro batch.
    """

    @property
    def compiles_automatically(self) -> bool:
        """See `Engine`; compiled blocks that are units of their own are not tested."""
        return False

    def _distribute(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int
    ) -> None:
        for parameter in model.parameters():
            # `fully_shard` refuses channels_last weights. Activations stay channels_last.
            parameter.data = parameter.data.contiguous()
        names = {parameter: name for name, parameter in model.named_parameters()}
        on_meta = any(parameter.device.type == "meta" for parameter in names)
        self.mesh = self._make_mesh()
        options = {"mesh": self.mesh, **self._policies()}
        reshard = self.options["fsdp_reshard_after_forward"] == "true"
        for unit in fsdp_units(model, int(self.options["fsdp_min_num_params"])):
            fully_shard(unit, reshard_after_forward=reshard, **options)
        self.model, self.adamw = fully_shard(model, **options), optimizer
        if on_meta:
            self._allocate(model)
        # `fully_shard` has replaced the parameters, so the optimizer gets the new ones by name.
        replaced = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [replaced[names[parameter]] for parameter in group["params"]]

    def _allocate(self, model: nn.Module) -> None:
        """Give a divided model memory for this rank's slices, whose values are arbitrary."""
        model.to_empty(device="cpu" if self.spec.offload else self.device)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.device))

    def _make_mesh(self) -> DeviceMesh:
        """Return the ranks as (copies, ranks of a copy); in one dimension if there is one copy.

        The ranks of a copy follow each other, as those of a machine do.
        """
        size, kind = self._copy_size(), self.device.type
        if size == self.world_size:
            return init_device_mesh(kind, (size,))
        ranks = torch.arange(self.world_size, device="cpu").view(-1, size)
        # Made here, because `init_device_mesh` gives the groups torch's default timeout.
        timeout = datetime.timedelta(seconds=self.timeout + GRACE_SECONDS)
        groups = [
            dist.new_subgroups_by_enumeration(lines.tolist(), timeout=timeout)[0]
            for lines in (ranks.T, ranks)
        ]
        return DeviceMesh.from_group(groups, kind, ranks, mesh_dim_names=("copies", "shards"))

    def _copy_size(self) -> int:
        """Return the number of ranks that split one copy of the model. Collective."""
        if not self.spec.hybrid:
            return self.world_size
        size = int(self.options[SHARD_SIZE])
        if size > 1:
            return size
        size = read_ranks(os.environ).local_world_size
        remedy = f"set {SHARD_SIZE} in the engine file"
        self.require_equal(size, f"{self.name}: machines have different numbers of ranks; {remedy}")
        if size == 1 < self.world_size:
            raise ConfigError(
                f"{self.name}: each machine has one rank, which cannot split a copy of the model; "
                f"use ddp or fsdp2, or {remedy}"
            )
        return size

    def _policies(self) -> dict[str, Any]:
        """Return the arguments of `fully_shard` that depend on the settings."""
        policies: dict[str, Any] = {}
        if self.spec.offload:
            policies["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
        if self.config.reduce_dtype == "fp32":
            return policies
        if self.accumulation > 1 and not self._reduces_each:
            raise ConfigError(
                "engine.reduce_each_micro_batch: false with engine.reduce_dtype=bf16 would add up "
                f"the {self.accumulation} micro batches of a step in bf16; write auto, or "
                "engine.reduce_dtype=fp32"
            )
        policies["mp_policy"] = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16)
        return policies

    @property
    def _reduces_each(self) -> bool:
        """Whether the gradients are reduced in every micro batch of a step."""
        return self.config.reduces_each(offload=self.spec.offload)

    def micro_batch(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """See `Engine.micro_batch`; the weights are gathered in every micro batch."""
        self.model.set_requires_gradient_sync(last or self._reduces_each)
        if not last and self.config.reduce_dtype == "fp32":
            # In bf16, FSDP2 would add up the slices that other copies have not got in bf16.
            self.model.set_requires_all_reduce(False)
        return contextlib.nullcontext()

    def _clip(self) -> Tensor:
        return self._clip_on_host() if self.spec.offload else full_tensor(super()._clip())

    def _clip_on_host(self) -> Tensor:
        """Clip gradients in host memory; only their norm is sent, from the device."""
        # A DTensor's own norm would be summed over the ranks on the host, which NCCL cannot.
        found = [parameter.grad for parameter in self.module.parameters()]
        gradients = [local_tensor(gradient) for gradient in found if gradient is not None]
        squared = nn.utils.get_total_norm(gradients).square().to(self.device)
        dist.all_reduce(squared, group=self.split.group)
        norm = squared.sqrt()
        if self.clip_norm > 0:
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0).to(gradients[0].device)
            torch._foreach_mul_(gradients, factor)
        return norm

    def slices(self, kind: str) -> list[Tensor]:
        """See `Engine.slices`."""
        return [local_tensor(tensor) for tensor in super().slices(kind)]

    def _masters(self) -> list[Tensor]:
        return list(self.module.parameters())

    @property
    def split(self) -> Split:
        """See `Engine.split`; the last dimension of the mesh splits, one before it replicates."""
        count = self.mesh.size(-1)
        return Split(
            count,
            self.rank % count,
            replicas=self.world_size // count,
            replica=self.rank // count,
            group=self.mesh.get_group(-1),
        )

    def _bounds(self, parameter: nn.Parameter) -> list[int]:
        # Rows as `torch.chunk` divides them.
        count = self.mesh.size(-1)
        rows, elements = len(parameter), parameter.numel()
        each = -(-rows // count) * (elements // rows)
        return [min(number * each, elements) for number in range(count + 1)]

    def _state(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return parameter if kind == WEIGHT else self.adamw.state[parameter][kind]

    def _read_slice(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return local_tensor(self._state(parameter, kind)).flatten()

    def _write_slice(self, parameter: nn.Parameter, kind: str, values: Tensor) -> None:
        local = local_tensor(self._state(parameter, kind))
        local.copy_(values.view(local.shape))


def fsdp_units(model: nn.Module, min_parameters: int) -> list[nn.Module]:
    """Return the modules whose weights are gathered together, inner modules first.

    Weights outside all units are gathered with the model. A compiled module is not divided: a hook
    inside it would break its graph. Neither is a module with the attribute `reads_inner_weights`,
    which does not call the modules inside it, so that their hooks would not run.

    Args:
        min_parameters: smallest number of parameters of a unit, without those of units inside it.
    """
    found: list[nn.Module] = []
    in_units: set[nn.Parameter] = set()

    def visit(module: nn.Module) -> None:
        is_compiled = module._compiled_call_impl is not None
        is_whole = is_compiled or getattr(module, "reads_inner_weights", False)
        for child in () if is_whole else module.children():
            visit(child)
        own = set(module.parameters()) - in_units
        # FSDP gathers a unit's weights in a hook of its forward pass. A ModuleList has none.
        is_called = type(module).forward is not nn.Module.forward
        if is_called and sum(parameter.numel() for parameter in own) >= min_parameters:
            found.append(module)
            in_units.update(own)

    for child in model.children():
        visit(child)
    return found


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor, gathered if it is split over the ranks. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, without a copy."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor
