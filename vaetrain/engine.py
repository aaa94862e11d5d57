"""How the model is spread: one small interface over Accelerate's engines.

The trainer says what a step is - micro batches, a backward pass each, one clipped optimizer step -
and the engine sees to it that any number of ranks computes what one would.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    KwargsHandler,
)
from torch import Tensor, nn

from shards.command import UserError
from vaetrain.settings import ConfigError
from vaetrain.startup import Launch

TIMEOUT = datetime.timedelta(minutes=10)


def leave_after_a_crash(*crash: Any) -> NoReturn:
    """An exception hook: tell the exception, then end the process without Python's own exit.

    That one waits for reader processes, which outlive the SIGTERM it sends them, while the other
    ranks wait for this one in a collective. The kernel ends the readers with their rank.
    """
    sys.__excepthook__(*crash)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class EngineError(UserError):
    """The processes are not what was asked for; the message is one plain line."""


class Engine:
    """The process group, the device, and a training step that means the same on all of them.

    Attributes:
        accelerator: Accelerate's own object, for its trackers.
        name: `single` or `ddp`.
        backend: `gloo`, `nccl`, or `none` with one process.
        rank, world_size, is_main: this process among all.
        device: where this rank computes.
        precision: `no`, `bf16` or `fp16`.
    """

    def __init__(self, launch: Launch, precision: str | None) -> None:
        on_cpu = not torch.cuda.is_available()
        self.precision = precision or launch.precision
        if on_cpu and self.precision == "fp16":
            # Accelerate would say fp16 and train in fp32.
            raise ConfigError("train.precision: fp16 needs a GPU; allowed on a CPU are no and bf16")
        handlers: list[KwargsHandler] = []
        if launch.world_size > 1:
            backend = "gloo" if on_cpu else "nccl"
            handlers.append(InitProcessGroupKwargs(backend=backend, timeout=TIMEOUT))
            handlers.append(DistributedDataParallelKwargs(gradient_as_bucket_view=True))
        self.accelerator = Accelerator(
            cpu=on_cpu, mixed_precision=self.precision, kwargs_handlers=handlers
        )
        sys.excepthook = leave_after_a_crash  # after the process group has installed its own
        self.rank = self.accelerator.process_index
        self.world_size = self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.name = "ddp" if dist.is_initialized() else "single"
        self.backend = dist.get_backend() if dist.is_initialized() else "none"
        self._check(launch)
        if on_cpu:
            # The launcher sets one thread, also for a process that has the machine to itself.
            cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            torch.set_num_threads(max(1, cores))

    def _check(self, launch: Launch) -> None:
        found = Launch(self.name, self.world_size, self.accelerator.mixed_precision)
        asked = Launch(launch.engine, launch.world_size, self.precision)
        if found != asked:
            raise EngineError(f"asked for {asked}, but running is {found}")
        met = int(self.sum(torch.ones((), device=self.device)))
        if met != self.world_size:
            raise EngineError(f"{self.world_size} processes were started, {met} found each other")

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Spread a model, already on the device, and its optimizer over the ranks."""
        self.module = model
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """The forward and backward of one micro batch; only a step's last one communicates."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(self.model):
                yield

    def backward(self, losses: Tensor, global_batch_size: int) -> None:
        """Add a micro batch's share of the gradient of the mean over the global batch.

        Args:
            losses: (B,), one loss per sample of this micro batch.
        """
        # DDP divides by the number of ranks what it has summed over them.
        self.accelerator.backward(losses.sum() * (self.world_size / global_batch_size))

    def step(self, lr: float, clip_norm: float) -> Tensor:
        """Clip the gradients to a global norm (0: don't) and step the optimizer.

        Returns: the global norm before clipping, a scalar on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        limit = clip_norm if clip_norm > 0 else float("inf")
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def say(self, message: str) -> None:
        """One line of the log, from the main process."""
        if self.is_main:
            print(message, flush=True)

    def on_main(self, action: Callable[[], None]) -> None:
        """Do something in the main process while the others wait; a refusal is raised on all."""
        refusal: list[str | None] = [None]
        if self.is_main:
            try:
                action()
            except UserError as error:
                refusal[0] = str(error)
        if dist.is_initialized():
            dist.broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise ConfigError(refusal[0])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on all of them."""
        if dist.is_initialized():
            values = values.clone()
            dist.all_reduce(values)
        return values

    def from_main(self, values: Tensor) -> Tensor:
        """The main process' values, of the same shape on all ranks."""
        if dist.is_initialized():
            dist.broadcast(values, src=0)
        return values

    def gather_ragged(self, rows: Tensor) -> Tensor:
        """The rows (N, K) of all ranks, in order of rank; N may differ between them."""
        if not dist.is_initialized():
            return rows
        most = torch.tensor(len(rows), device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        # A leading column tells rows from padding.
        padded = rows.new_zeros(int(most), 1 + rows.shape[1])
        padded[: len(rows), 0] = 1
        padded[: len(rows), 1:] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        table = torch.cat(parts)
        return table[table[:, 0] == 1, 1:]

    def wait_for_everyone(self) -> None:
        """Return when every rank has come here."""
        self.accelerator.wait_for_everyone()

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer, whole, on this rank's device, by name."""
        return dict(self.module.state_dict())

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's tensors, whole, as `<state>.<parameter name>`."""
        state = self.optimizer.state
        return {
            f"{key}.{name}": value
            for name, parameter in self.module.named_parameters()
            for key, value in state.get(parameter, {}).items()
        }

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `optimizer_state` returned, on any engine."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            by_name.setdefault(name, {})[kind] = value
        names = {parameter: name for name, parameter in self.module.named_parameters()}
        whole = self.optimizer.state_dict()
        for ours, theirs in zip(self.optimizer.param_groups, whole["param_groups"], strict=True):
            for parameter, number in zip(ours["params"], theirs["params"], strict=True):
                if names[parameter] in by_name:
                    whole["state"][number] = by_name[names[parameter]]
        # The optimizer itself knows which of its tensors belong on the device.
        self.optimizer.load_state_dict(whole)

    def leave(self, status: int) -> NoReturn:
        """End this process, cleanly and for certain, with an exit status.

        On a busy machine a process that had succeeded sometimes aborted in the interpreter's exit,
        among threads of the process group; so what must happen is done here, and the rest skipped.
        """
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
