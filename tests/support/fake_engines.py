"""Engines on fake CUDA tensors: the engine's own code, without processes and without DeepSpeed."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests.support.fake_devices import CUDA, fake_backward
from vaetrain.engines.base import Engine
from vaetrain.engines.config import OptimizerConfig
from vaetrain.engines.optimizers import build_optimizer, clip_gradients
from vaetrain.engines.replicated import ReplicatedEngine
from vaetrain.engines.spec import ENGINES
from vaetrain.engines.zero import ZeroEngine

CLIP = 0.5


def start(engine: Engine, name: str, precision: str) -> None:
    """Set the attributes that `Engine.__init__` sets in a launched process."""
    engine.spec, engine.precision, engine.device = ENGINES[name], precision, CUDA
    engine.rank, engine.world_size, engine.is_main, engine.heartbeat = 0, 1, True, None


def single(precision: str) -> ReplicatedEngine:
    """Return the engine `single`; `prepare` is still to be called."""
    engine = ReplicatedEngine.__new__(ReplicatedEngine)
    start(engine, "single", precision)
    # GradScaler is disabled without a GPU.
    with patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False):
        engine.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    engine.accelerator = SimpleNamespace(
        prepare=lambda model: model, no_sync=lambda model: contextlib.nullcontext()
    )
    return engine


class FakeDeepSpeed:
    """Stand-in for DeepSpeed's engine and its optimizer on one rank.

    The masters, their gradients and the optimizer's states lie where DeepSpeed puts them: in host
    memory with offload, else on the device.
    """

    overflow = False

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, host: str) -> None:
        self.module, self.optimizer, self.loss_scale = module, optimizer, 1.0
        self.parameters = list(module.parameters())
        self.masters = [p.detach().flatten().to(host) for p in self.parameters]
        self.single_partition_of_fp32_groups = self.fp32_partitioned_groups_flat = self.masters
        optimizer.param_groups = [optimizer.param_groups[0] | {"params": self.masters}]
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.ds_tensor = SimpleNamespace(ds_numel=master.numel())
            parameter.master = master

    def __call__(self, *args: object) -> object:
        return self.module(*args)

    def set_gradient_accumulation_boundary(self, is_last: bool) -> None:
        """Do nothing: there is one rank."""

    def backward(self, loss: Tensor, scale_wrt_gas: bool) -> None:
        """Give all weights gradients."""
        fake_backward(loss)

    def step(self) -> None:
        """Step the masters and copy them to the weights of the forward pass."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            master.grad = parameter.grad.flatten().to(master.device)
        self.norm = clip_gradients(self.masters, CLIP)
        self.optimizer.step()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.detach().copy_(master.view_as(parameter))
            parameter.grad = None

    def get_global_grad_norm(self) -> Tensor:
        """Return the norm, where it was computed."""
        return self.norm


class FakeZeroEngine(ZeroEngine):
    """ZeRO engine of one rank whose DeepSpeed is `FakeDeepSpeed`."""

    def __init__(self, name: str, precision: str) -> None:
        start(self, name, precision)

    def _distribute(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int
    ) -> None:
        host = "cpu" if self.spec.offload else "cuda"
        self.model = self.optimizer = FakeDeepSpeed(model, optimizer, host)
        self.adamw, self._steps_at_scale = optimizer, 0
        if self.precision == "fp16":
            self.optimizer.loss_scale = 2.0**16

    def _link_states(self) -> None:
        """Do nothing: states are found by the parameter's master."""

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.shape

    def _bounds(self, parameter: nn.Parameter) -> list[int]:
        return [0, parameter.numel()]

    def _read_slice(self, parameter: nn.Parameter, kind: str) -> Tensor:
        master = parameter.master
        return master.detach() if kind == "weight" else self.adamw.state[master][kind]

    def _write_slice(self, parameter: nn.Parameter, kind: str, values: Tensor) -> None:
        self.adamw.state[parameter.master][kind].copy_(values)


def prepared(name: str, precision: str, model: nn.Module) -> Engine:
    """Return an engine of one rank with a fake model and its optimizer."""
    engine = single(precision) if name == "single" else FakeZeroEngine(name, precision)
    optimizer = build_optimizer(model, OptimizerConfig())
    engine.prepare(model, optimizer, micro_batch=4, accumulation=2, clip_norm=CLIP)
    return engine
