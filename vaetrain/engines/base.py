"""How the model is spread over processes: one small interface, whatever the engine.

The trainer says what a step is - micro batches, a backward pass each, one clipped optimizer step -
and the engine sees to it that any number of ranks computes what one would. The engines themselves
are `engine_replicated.py` (single, DDP), `engine_zero.py` (ZeRO-1, 2 and 3) and `engine_fsdp.py`.
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
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    KwargsHandler,
    convert_outputs_to_fp32,
)
from torch import Tensor, nn

from shards.errors import UserError
from vaetrain import cli
from vaetrain.engines.allocator import keep_freed_memory
from vaetrain.engines.collectives import Collectives
from vaetrain.engines.crash import exit_after_exception
from vaetrain.engines.heartbeat import Heartbeat
from vaetrain.engines.optimizers import MOMENTS, STEP, start_state, step_where
from vaetrain.engines.spec import Launch, hide_engine
from vaetrain.settings import ConfigError

GRACE_SECONDS = 10.0  # for which collectives outwait the heartbeat, which knows more
WHOLE_STATES = ("single", "ddp")  # engines where every rank has an optimizer's whole state
WEIGHT, AVERAGE = "weight", "average"  # what a shard may be of, beside the optimizer's moments


class EngineError(UserError):
    """The processes are not what was asked for; the message is one plain line."""


class Engine(Collectives, abc.ABC):
    """The process group, the device, and a training step that means the same on all of them.

    What a rank holds of the model it holds as *slices*: the fp32 tensors its optimizer steps, each
    with AdamW's moments and the weights' average beside it, all cut alike. `slices` are the rank's
    own; `gather` and `scatter` go to and from whole tensors by parameter name.

    Attributes, beside those of `Collectives`:
        accelerator: Accelerate's own object.
        name: `single`, `ddp`, `zero1` ..., one of `spec.ENGINES`.
        backend: `gloo`, `nccl`, or `none` with one process.
        precision: `no`, `bf16` or `fp16`.
        model: once prepared, what forward passes go through.
        module: the model itself, for its attributes only.
    """

    model: nn.Module
    module: nn.Module
    adamw: torch.optim.Optimizer  # what steps the slices: AdamW, but where it need not be cut

    def __init__(self, launch: Launch, precision: str | None, timeout: float) -> None:
        on_cpu = not torch.cuda.is_available()
        self.precision = precision or launch.precision
        if on_cpu and self.precision == "fp16":
            # Accelerate would say fp16 and train in fp32.
            raise ConfigError("train.precision: fp16 needs a GPU; allowed on a CPU are no and bf16")
        handlers: list[KwargsHandler] = []
        if launch.engine != "single":
            backend = "gloo" if on_cpu else "nccl"
            patience = datetime.timedelta(seconds=timeout + GRACE_SECONDS)
            handlers.append(InitProcessGroupKwargs(backend=backend, timeout=patience))
            handlers.append(DistributedDataParallelKwargs(gradient_as_bucket_view=True))
        hide_engine(os.environ)
        try:
            self.accelerator = Accelerator(
                cpu=on_cpu, mixed_precision=self.precision, kwargs_handlers=handlers
            )
        except dist.DistError:
            cli.fail(f"not all {launch.world_size} ranks came up within {timeout:g} s")
        self.rank = self.accelerator.process_index
        self.world_size = self.accelerator.num_processes
        self.heartbeat = None
        if self.world_size > 1:
            self.heartbeat = Heartbeat(self.rank, self.world_size, timeout)
        # After the process group has installed its own.
        sys.excepthook = functools.partial(exit_after_exception, self.heartbeat)
        self.is_main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.name = launch.engine
        self.backend = dist.get_backend() if dist.is_initialized() else "none"
        self._check(launch)
        if on_cpu:
            # The launcher sets one thread, also for a process that has the machine to itself.
            cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            torch.set_num_threads(max(1, cores))
            keep_freed_memory()

    def _check(self, launch: Launch) -> None:
        engine = launch.engine if dist.is_initialized() else "single"
        found = Launch(engine, self.world_size, self.accelerator.mixed_precision)
        asked = Launch(launch.engine, launch.world_size, self.precision)
        if found != asked:
            raise EngineError(f"asked for {asked}, but running is {found}")
        met = int(self.sum(torch.ones((), device=self.device)))
        if met != self.world_size:
            raise EngineError(f"{self.world_size} processes were started, {met} found each other")

    # The model: what each engine does in its own way.

    def prepare(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch: int,
        accumulation: int,
        clip_norm: float,
    ) -> None:
        """Spread a model, already on the device, and its fresh optimizer over the ranks.

        Args:
            micro_batch: samples a rank feeds the model at once.
            accumulation: micro batches of an optimizer step.
            clip_norm: global norm that gradients are clipped to; 0: they are not.
        """
        if self.name not in WHOLE_STATES and not isinstance(optimizer, torch.optim.AdamW):
            raise ConfigError(
                f"optimizer.name: {self.name} can cut the state of adamw only; "
                f"others train on {' and '.join(WHOLE_STATES)}"
            )
        self.accumulation, self.clip_norm = accumulation, clip_norm
        self.module = model
        self._spread(model, optimizer, micro_batch)
        start_state(self.adamw, self._masters())

    @abc.abstractmethod
    def _spread(self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int) -> None:
        """Set `model` and `adamw`."""

    @abc.abstractmethod
    def micro_batch(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around a micro batch's forward and backward; `last` of a step or not."""

    def backward(self, losses: Tensor, global_batch_size: int) -> None:
        """Add a micro batch's share of the gradient of the mean over the global batch.

        Args:
            losses: (B,), one loss per sample of this micro batch.
        """
        # Every engine divides by the number of ranks what it has summed over them.
        loss = losses.sum() * (self.world_size / global_batch_size)
        # A loss that is not finite may have gradients that are: times nan, they tell every rank.
        self._backward(loss * (1 + 0 * loss.detach()))

    @abc.abstractmethod
    def _backward(self, loss: Tensor) -> None: ...

    def step(self, lr: float) -> Tensor:
        """Clip the gradients, step the optimizer, and forget the gradients.

        Where any loss or gradient of any rank was not finite, nothing moves.

        Returns: the global norm before clipping, a scalar on the device, the same on every rank;
            not finite where the step was left out.
        """
        for group in self.adamw.param_groups:
            group["lr"] = lr
        return self._step()

    @abc.abstractmethod
    def _step(self) -> Tensor: ...

    @property
    def loss_scale(self) -> Tensor | float:
        """What gradients are multiplied by on their way back: 1 but for fp16."""
        return 1.0

    @abc.abstractmethod
    def _masters(self) -> list[Tensor]:
        """This rank's slices of the weights, as the optimizer knows them."""

    @abc.abstractmethod
    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """The whole tensor whose slices belong to a parameter. Collective."""

    @abc.abstractmethod
    def _cut(self, parameter: nn.Parameter, kind: str, whole: Tensor) -> None:
        """Overwrite this rank's slice of a state of the optimizer."""

    # The model: what follows for all of them.

    def slices(self, kind: str) -> list[Tensor]:
        """This rank's own tensors of a kind - `WEIGHT`, `AVERAGE`, a moment - in a fixed order."""
        masters = self._masters()
        return masters if kind == WEIGHT else [self.adamw.state[m][kind] for m in masters]

    def keep_average(self) -> None:
        """Hold an average of the weights beside them, which starts as the weights are now."""
        for master in self._masters():
            self.adamw.state[master][AVERAGE] = master.detach().clone()

    def gather(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors of a kind on the device by parameter name, one after the other. Collective.

        Every rank has to exhaust it, and holds one tensor at a time if it keeps none.
        """
        for name, parameter in self.module.named_parameters():
            yield name, self._whole(parameter, kind)

    def scatter(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Put whole tensors, from any device, into this rank's slices."""
        for name, parameter in self.module.named_parameters():
            self._cut(parameter, kind, tensors[name])

    def buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The model's state that is no parameter; every rank has all of it."""
        parameters = {name for name, _ in self.module.named_parameters()}
        for name, value in self.module.state_dict().items():
            if name not in parameters:
                yield name, value

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and buffer, whole, by name. Collective."""
        yield from self.gather(WEIGHT)
        yield from self.buffers()

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's step count and its moments, `<moment>.<parameter name>`. Collective."""
        yield STEP, self.slices(STEP)[0]
        for moment in MOMENTS:
            for name, tensor in self.gather(moment):
                yield f"{moment}.{name}", tensor

    def load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave, on any engine."""
        for count in self.slices(STEP):
            count.copy_(tensors[STEP])
        for moment in MOMENTS:
            prefix = f"{moment}."
            mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.scatter(moment, mine)

    def collect(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Gathered tensors in the main process' memory; the other ranks keep none of them."""
        kept = {}
        for name, tensor in tensors:
            if self.is_main:
                kept[name] = tensor.detach().cpu()
        return kept

    # Small modules beside the model, such as learned loss weights: whole on every rank, called raw.

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make gradients that came through `backward` those of the mean over the global batch.

        For parameters outside the model, by one explicit all-reduce, before `loss_scale` changes
        in the model's own step. Collective.
        """
        parameters = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self.sum(nn.utils.parameters_to_vector(gradients))
        mean = total / (self.world_size * self.loss_scale)
        nn.utils.vector_to_parameters(mean, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def step_beside(
        self, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float, applied: Tensor
    ) -> Tensor:
        """A step, after the model's own, of an optimizer of parameters outside the model.

        Their gradients are averaged already. Where one is not finite, nothing moves.

        Args:
            applied: bool scalar on the device, whether the model was updated; false: nothing moves.

        Returns: the global norm before clipping, a scalar on the device.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, clip_norm if clip_norm > 0 else float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = lr
        step_where(applied & norm.isfinite(), optimizer)
        optimizer.zero_grad()
        return norm


def compute_in(model: nn.Module, device: torch.device, precision: str) -> None:
    """Let a model's forward pass run in `bf16` or `fp16` where that is safe, and return fp32.

    Its parameters stay fp32, and so do gradients and all that ranks send each other: this is what
    Accelerate does under DDP, so that every engine computes the same.
    """
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in dtypes:
        autocast = torch.autocast(device.type, dtypes[precision])
        model.forward = convert_outputs_to_fp32(autocast(model.forward))
