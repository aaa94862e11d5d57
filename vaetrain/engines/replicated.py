"""Engines whose ranks hold the whole model: one process, or DDP through Accelerate."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from vaetrain.engines.base import AVERAGE, WEIGHT
from vaetrain.engines.optimizers import load_optimizer_tensors, optimizer_tensors
from vaetrain.engines.slices import Split
from vaetrain.engines.torch_engine import TorchEngine
from vaetrain.settings import ConfigError


class ReplicatedEngine(TorchEngine):
    """`single` and `ddp`: a slice is a whole parameter."""

    def _distribute(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int
    ) -> None:
        self.adamw = optimizer
        # Accelerate has no argument for the name that torch 2.14 prefers, so each rank would warn.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        self.model = self.accelerator.prepare(model)
        if self.config.reduce_dtype == "bf16":
            self._reduce_in_bf16()
        if isinstance(self.model, DistributedDataParallel):  # not with one rank
            settle_buckets(self.model)
            optimizer.zero_grad()

    def _reduce_in_bf16(self) -> None:
        if not self.spec.has_process_group:
            raise ConfigError(
                f"engine.reduce_dtype: {self.name} has one rank and reduces no gradients; write "
                "fp32, or use an engine with several ranks"
            )
        if isinstance(self.model, DistributedDataParallel):  # not with one rank
            self.model.register_comm_hook(None, bf16_compress_hook)

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """See `Engine.micro_batch`; only a step's last micro batch communicates."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(self.model):
                yield

    @property
    def moments(self) -> tuple[str, ...]:
        """See `Engine.moments`; the state of other optimizers than AdamW is not cut."""
        return super().moments if isinstance(self.adamw, torch.optim.AdamW) else ()

    def whole_state(self) -> Iterator[tuple[str, Tensor]]:
        """See `Engine.whole_state`; of other optimizers than AdamW, the whole state."""
        if isinstance(self.adamw, torch.optim.AdamW):
            yield from super().whole_state()
            return
        for name, tensor in optimizer_tensors(self.module, self.adamw).items():
            if not name.startswith(f"{AVERAGE}."):
                yield name, tensor

    def load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.load_optimizer_state`."""
        if isinstance(self.adamw, torch.optim.AdamW):
            super().load_optimizer_state(tensors)
        else:
            load_optimizer_tensors(self.module, self.adamw, tensors)

    def _masters(self) -> list[Tensor]:
        return list(self.module.parameters())

    @property
    def split(self) -> Split:
        """See `Engine.split`."""
        return Split(1, 0, replicas=self.world_size, replica=self.rank)

    def gather(self, kind: str, bucket: int = 0) -> Iterator[tuple[str, Tensor]]:
        """See `Engine.gather`; nothing is sent, and the tensors share memory with the state."""
        for name, parameter in self.module.named_parameters():
            yield name, self._state(parameter, kind)

    def _state(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return parameter.detach() if kind == WEIGHT else self.adamw.state[parameter][kind]

    def _bounds(self, parameter: nn.Parameter) -> list[int]:
        return [0, parameter.numel()]

    def _read_slice(self, parameter: nn.Parameter, kind: str) -> Tensor:
        return self._state(parameter, kind).flatten()

    def _write_slice(self, parameter: nn.Parameter, kind: str, values: Tensor) -> None:
        state = self._state(parameter, kind)
        state.copy_(values.view(state.shape))


class _SumOfWeights(nn.Module):
    """Stand-in for a model whose gradients are zero and ready in reverse order of its parameters.

    Args:
        parameters: of the model, on which the sum depends.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self._parameters_of_model = tuple(parameters)  # not registered

    def forward(self) -> Tensor:
        """Return the sum, times zero."""
        return sum((parameter * 0).sum() for parameter in self._parameters_of_model)


def settle_buckets(model: DistributedDataParallel) -> None:
    """Make DDP divide the gradients into the buckets that it then keeps. Collective.

    DDP does this once, after its first backward pass. A sum over more than two ranks is rounded
    differently at another place of a bucket, so the first step after a resume would differ from the
    step of an uninterrupted run. The gradients are zero afterwards.
    """
    module = model.module
    model.module = _SumOfWeights([p for p in module.parameters() if p.requires_grad])
    try:
        model().backward()
    finally:
        model.module = module
