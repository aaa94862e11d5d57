"""Interface of an engine: how a model, its gradients and its optimizer are split over the ranks.

The trainer defines a step: micro batches with a backward pass each, then one optimizer step with
clipped gradients. An engine computes it so that the result does not depend on the number of ranks.
The engines are `replicated.py` (single, DDP), `zero.py` (ZeRO-1, 2 and 3) and `fsdp.py`.
"""

from __future__ import annotations

import abc
import contextlib
import datetime
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, KwargsHandler
from torch import Tensor, nn

from shards.errors import UserError
from vaetrain import cli
from vaetrain.engines.allocator import keep_freed_memory
from vaetrain.engines.collectives import Collectives
from vaetrain.engines.config import EngineConfig
from vaetrain.engines.crash import exit_after_exception
from vaetrain.engines.device_options import automatic_precision
from vaetrain.engines.devices import cpu_threads
from vaetrain.engines.heartbeat import Heartbeat
from vaetrain.engines.joining import Joining
from vaetrain.engines.launching.launch_settings import hide_variables
from vaetrain.engines.launching.rank_variables import read_ranks
from vaetrain.engines.model_options import ddp_options
from vaetrain.engines.optimizers import MOMENTS, STEP, clip_gradients, start_state, step_where
from vaetrain.engines.slices import (
    BUCKET,
    Split,
    even_bounds,
    gather_slices,
    in_buckets,
    read_range,
)
from vaetrain.engines.spec import ENGINES, Launch
from vaetrain.settings import AUTO, ConfigError

# Collectives time out this much later than the heartbeat, whose message names the rank at fault.
GRACE_SECONDS = 10.0
WEIGHT, AVERAGE = "weight", "average"  # kinds of slices, in addition to the moments


class EngineError(UserError):
    """A process group that differs from the one asked for; the message is one plain line."""


class Engine(Collectives, abc.ABC):
    """The process group, the device, and a training step with one result on any number of ranks.

    A rank holds its part of the model as *slices*: the fp32 tensors that its optimizer steps, each
    with slices of AdamW's moments and of the EMA of the weights of the same shape. `slices` returns
    the rank's own; `gather` and `scatter` convert to and from whole tensors by parameter name.

    Attributes, in addition to those of `Collectives`:
        accelerator: Accelerate's own object.
        spec: the engine's entry of `spec.ENGINES`.
        options: options of the launch that the engine reads, by name.
        backend: `gloo`, `nccl`, or `none` without a process group.
        precision: `no`, `bf16` or `fp16`.
        model: after `prepare`, the module to call for forward passes.
        module: the bare model, for access to its attributes only.
        adamw: the optimizer of the slices; another one than AdamW only if `spec.whole_state`.
    """

    model: nn.Module
    module: nn.Module
    adamw: torch.optim.Optimizer

    def __init__(self, launch: Launch, precision: str | None, timeout: float) -> None:
        on_cpu = not torch.cuda.is_available()
        self.precision = precision or launch.precision
        if on_cpu and self.precision == "fp16":
            source = launch.precision_source if precision is None else "train.precision"
            raise ConfigError(f"{source}: fp16 needs a GPU; allowed on a CPU are no and bf16")
        self.spec, self.options = launch.spec, dict(launch.options)
        handlers: list[KwargsHandler] = []
        if self.spec.has_process_group:
            backend = "gloo" if on_cpu else "nccl"
            collective_timeout = datetime.timedelta(seconds=timeout + GRACE_SECONDS)
            handlers.append(InitProcessGroupKwargs(backend=backend, timeout=collective_timeout))
            handlers.append(ddp_options())
        hide_variables(os.environ)
        joining = Joining(read_ranks(os.environ))
        try:
            # Not Accelerate's mixed precision: `apply_options` sets autocast and each engine scales
            # the losses of fp16, so that all engines compute the same.
            with joining.announced():
                self.accelerator = Accelerator(
                    cpu=on_cpu, mixed_precision="no", kwargs_handlers=handlers
                )
        except dist.DistError:
            cli.fail(
                f"only {joining.joined} of {launch.world_size} ranks joined the process group at "
                f"{joining.ranks.address} within {timeout:g} s (train.timeout_seconds)"
            )
        self.rank = self.accelerator.process_index
        self.world_size = self.accelerator.num_processes
        self.heartbeat, self.timeout = None, timeout
        if self.world_size > 1:
            self.heartbeat = Heartbeat(joining.ranks, timeout)
            self.heartbeat.start()
        # Set after the process group has set its own hook.
        sys.excepthook = functools.partial(exit_after_exception, self.heartbeat)
        self.is_main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        if self.precision == AUTO:
            self.precision = automatic_precision(self.device)
        self.backend = dist.get_backend() if dist.is_initialized() else "none"
        self._check(launch)
        if on_cpu:
            torch.set_num_threads(cpu_threads(os.environ))
            keep_freed_memory()

    @property
    def name(self) -> str:
        """The engine's name, a key of `spec.ENGINES`."""
        return self.spec.name

    @property
    def compiles(self) -> bool:
        """Whether the engine can run a model with compiled blocks."""
        return True

    @property
    def compiles_automatically(self) -> bool:
        """Whether `train.compile=auto` may compile."""
        return self.compiles

    def _check(self, launch: Launch) -> None:
        """Raise EngineError unless the process group is the launch's."""
        has_group = dist.is_initialized()
        if has_group != self.spec.has_process_group or self.world_size != launch.world_size:
            group = f"a process group of {self.world_size}" if has_group else "no process group"
            raise EngineError(f"asked for {launch}, but there is {group}")
        joined = int(self.sum(torch.ones((), device=self.device)))
        if joined != self.world_size:
            raise EngineError(
                f"{self.world_size} processes were started, but {joined} joined the process group"
            )

    # The model: implemented by each engine.

    def prepare(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch: int,
        accumulation: int,
        clip_norm: float,
        config: EngineConfig | None = None,
    ) -> None:
        """Distribute a model and its fresh optimizer over the ranks.

        Args:
            model: on the device, after `apply_options`. If `spec.loads_slices` it may be on `meta`;
                call `load_weights` then.
            micro_batch: samples per rank and micro batch.
            accumulation: micro batches per optimizer step.
            clip_norm: maximum global norm of the gradients; 0: no clipping.
            config: None: the defaults.

        Raises ConfigError for an optimizer whose state the engine cannot split.
        """
        if not self.spec.whole_state and not isinstance(optimizer, torch.optim.AdamW):
            others = " and ".join(spec.name for spec in ENGINES.values() if spec.whole_state)
            raise ConfigError(
                f"optimizer.name: {self.name} splits the state of adamw only; "
                f"use adamw, or one of the engines {others}"
            )
        self.accumulation, self.clip_norm = accumulation, clip_norm
        self.config = config or EngineConfig()
        self.module = model
        self._distribute(model, optimizer, micro_batch)
        start_state(self.adamw, self._masters())

    @abc.abstractmethod
    def _distribute(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int
    ) -> None:
        """Set `model` and `adamw`."""

    @abc.abstractmethod
    def micro_batch(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of a micro batch's forward and backward pass.

        Args:
            last: whether it is the last micro batch of the step.
        """

    def backward(self, losses: Tensor, global_batch_size: int) -> None:
        """Add a micro batch's share of the gradient of the mean over the global batch.

        Args:
            losses: (B,), one loss per sample of this micro batch.
        """
        # Every engine divides the sum of gradients over the ranks by the number of ranks.
        loss = losses.sum() * (self.world_size / global_batch_size)
        # The gradients of a loss that is not finite can be finite. Multiplying them by nan makes
        # the gradient norm report such a loss to every rank.
        self._backward(loss * (1 + 0 * loss.detach()))

    @abc.abstractmethod
    def _backward(self, loss: Tensor) -> None: ...

    def step(self, lr: float) -> Tensor:
        """Clip the gradients, step the optimizer and clear the gradients.

        If any loss or gradient of any rank is not finite, the step is skipped on all ranks.

        Returns: the global gradient norm before clipping, a scalar on the device, the same on every
            rank; not finite if the step was skipped.
        """
        for group in self.adamw.param_groups:
            group["lr"] = lr
        return self._step()

    @abc.abstractmethod
    def _step(self) -> Tensor: ...

    @property
    def loss_scale(self) -> Tensor | float:
        """The factor of gradients in the backward pass; 1 except for fp16."""
        return 1.0

    @abc.abstractmethod
    def _masters(self) -> list[Tensor]:
        """Return this rank's slices of the weights, the keys of the optimizer's state."""

    @property
    def split(self) -> Split:
        """Division of the slices over the ranks."""
        return Split(self.world_size, self.rank)

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        """Return the shape of a whole parameter."""
        return parameter.shape

    @abc.abstractmethod
    def _bounds(self, parameter: nn.Parameter) -> list[int]:
        """Return the bounds of a parameter's slices, of length `split.count + 1`."""

    @abc.abstractmethod
    def _read_slice(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """Return this rank's slice of a kind, flat; it may share memory with the state."""

    @abc.abstractmethod
    def _write_slice(self, parameter: nn.Parameter, kind: str, values: Tensor) -> None:
        """Overwrite this rank's slice of an optimizer state of a parameter by flat values."""

    # The model: the same for all engines.

    def slices(self, kind: str) -> list[Tensor]:
        """Return this rank's tensors of `WEIGHT`, `AVERAGE` or a moment, in a fixed order."""
        masters = self._masters()
        return masters if kind == WEIGHT else [self.adamw.state[m][kind] for m in masters]

    def keep_average(self) -> None:
        """Allocate the slices of the EMA; it starts at the current weights."""
        for master in self._masters():
            self.adamw.state[master][AVERAGE] = master.detach().clone()

    def gather(self, kind: str, bucket: int = BUCKET) -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors of a kind on the device, with their parameter names. Collective.

        Every rank must exhaust the iterator. One collective makes a bucket of tensors whole, and
        one bucket at a time is in memory unless the caller keeps the tensors.

        Args:
            bucket: elements of a bucket.
        """
        named = self.module.named_parameters()
        sized = (((name, p), self._shape(p).numel()) for name, p in named)
        for pairs in in_buckets(sized, bucket):
            own = [self._read_slice(p, kind).to(self.device) for _, p in pairs]
            whole = gather_slices(own, [self._bounds(p) for _, p in pairs], self.split)
            for (name, p), tensor in zip(pairs, whole, strict=True):
                yield name, tensor.view(self._shape(p))

    def scatter(self, kind: str, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        """Copy this rank's slices out of whole tensors on any device.

        Args:
            tensors: by `prefix` and parameter name; of a `RangeReader`, only the slices are read.
        """
        index = self.split.index
        for name, parameter in self.module.named_parameters():
            start, stop = self._bounds(parameter)[index : index + 2]
            values = read_range(tensors, f"{prefix}{name}", start, stop)
            self._write_slice(parameter, kind, values)

    def part_bounds(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return the shape and `Split.part_bounds` of each parameter by name."""
        return {
            name: (tuple(self._shape(p)), self.split.part_bounds(self._bounds(p)))
            for name, p in self.module.named_parameters()
        }

    def part(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Yield what only this rank writes to a checkpoint, flat, by parameter name."""
        split = self.split
        for name, parameter in self.module.named_parameters():
            values = self._read_slice(parameter, kind)
            start, stop = even_bounds(len(values), split.replicas)[split.replica :][:2]
            yield name, values[start:stop]

    def buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the model's state that is no parameter; every rank holds all of it."""
        parameters = {name for name, _ in self.module.named_parameters()}
        for name, value in self.module.state_dict().items():
            if name not in parameters:
                yield name, value

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter and buffer, whole, with its name. Collective."""
        yield from self.gather(WEIGHT)
        yield from self.buffers()

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the output of `weights`, of which this rank's slices are read."""
        self.scatter(WEIGHT, tensors)
        for name, buffer in self.buffers():
            buffer.copy_(tensors[name])

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the step count and the moments as `<moment>.<parameter name>`. Collective."""
        yield from self.whole_state()
        for moment in self.moments:
            for name, tensor in self.gather(moment):
                yield f"{moment}.{name}", tensor

    @property
    def moments(self) -> tuple[str, ...]:
        """Kinds of slices that the optimizer's state consists of, besides `whole_state`."""
        return MOMENTS

    def whole_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the optimizer's state that every rank has as a whole."""
        yield STEP, self.slices(STEP)[0]

    def load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the output of `optimizer_state`, whichever engine wrote it."""
        for count in self.slices(STEP):
            count.copy_(tensors[STEP])
        for moment in MOMENTS:
            self.scatter(moment, tensors, f"{moment}.")

    def collect(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Return gathered tensors in host memory on the main process; an empty dict on others."""
        return {name: tensor.detach().cpu() for name, tensor in tensors if self.is_main}

    # Modules outside the model, such as the discriminator and learned loss weights: whole on every
    # rank, and called without a wrapper.

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Turn gradients that `backward` computed into those of the mean over the global batch.

        Call it before the model's own `step`, which may change `loss_scale`. One all-reduce.
        """
        parameters = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self.sum(nn.utils.parameters_to_vector(gradients))
        mean = total / (self.world_size * self.loss_scale)
        nn.utils.vector_to_parameters(mean, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def step_replicated(
        self, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float, applied: Tensor
    ) -> Tensor:
        """Step an optimizer of parameters outside the model, after the model's own step.

        Their gradients are averaged already. If one of them is not finite, the step is skipped.

        Args:
            applied: bool scalar on the device; false, where the model's step was skipped, skips
                this one, too.

        Returns: the global gradient norm before clipping, a scalar on the device.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = clip_gradients(parameters, clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr
        step_where(applied & norm.isfinite(), optimizer)
        optimizer.zero_grad()
        return norm
