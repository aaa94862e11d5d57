"""ZeRO by DeepSpeed: optimizer states, gradients (2) and weights (3) split over the ranks.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", and
for `_offload` Ren et al. 2021, "ZeRO-Offload". DeepSpeed is called directly and not through
Accelerate, which steps inside `backward`, lets the engine file override the experiment's
accumulation and clipping, and needs the transformers package.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vaetrain.engines.base import WEIGHT, Engine

BUCKET = 20_000_000  # elements per message; DeepSpeed's default is a buffer of 2 GB
FIRST_SCALE, STEPS_TO_GROW = 2.0**16, 2000  # of fp16's losses, the defaults of GradScaler


class ZeroEngine(Engine):
    """`zero1` to `zero3`, with and without offload to host memory.

    bf16 and fp16 are torch's autocast around the forward pass, as on every engine, so weights and
    gradients are fp32, and so is communication, unless `engine.reduce_dtype` says otherwise.
    DeepSpeed's own `torch_autocast` would sum gradients in bf16, and with fp16 clip gradients
    before it unscales them.
    """

    @property
    def compiles(self) -> bool:
        """See `Engine.compiles`; DeepSpeed's hooks inside compiled blocks are not tested."""
        return False

    def _distribute(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, micro_batch: int
    ) -> None:
        self.model, self.optimizer, _, _ = self._import_deepspeed().initialize(
            model=model,
            optimizer=optimizer,
            config=self._deepspeed_config(micro_batch),
            dist_init_required=False,
        )
        self.adamw = self.optimizer.optimizer
        self._steps_at_scale = 0
        if self.precision == "fp16":
            self.optimizer.loss_scale = FIRST_SCALE

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
        """See `Engine.prepare`."""
        super().prepare(model, optimizer, **settings)
        self._link_states()

    def keep_average(self) -> None:
        """See `Engine.keep_average`."""
        super().keep_average()
        self._link_states()

    def _import_deepspeed(self) -> ModuleType:
        if self.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        # DeepSpeed uses collectives under torch's old names, and would warn on every rank.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        import deepspeed

        if self.device.type == "cpu":
            # It would compile for 90 seconds an operator that only its inference uses.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        return deepspeed

    def _deepspeed_config(self, micro_batch: int) -> dict[str, Any]:
        zero: dict[str, Any] = {
            "stage": self.spec.stage,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "stage3_prefetch_bucket_size": BUCKET,
        }
        if self.spec.offload:
            host = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
            zero["offload_optimizer"] = host
            if self.spec.stage == 3:
                zero["offload_param"] = host
        return {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clip_norm,
            "communication_data_type": self.config.reduce_dtype,
            "zero_optimization": zero,
            # torch's fused AdamW works on host tensors too; DeepSpeed's needs a compiler.
            "zero_force_ds_cpu_optimizer": False,
        }

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """See `Engine.micro_batch`; from ZeRO-2 on every micro batch communicates."""
        self.model.set_gradient_accumulation_boundary(last)
        yield

    def _backward(self, loss: Tensor) -> None:
        self.model.backward(loss, scale_wrt_gas=False)

    def _step(self) -> Tensor:
        self.model.step()
        if self.precision == "fp16":
            self._adapt_scale()
        # Infinite if a gradient was not finite; DeepSpeed has skipped the step then.
        return torch.as_tensor(self.model.get_global_grad_norm(), device=self.device)

    def _adapt_scale(self) -> None:
        """Halve the loss scale after an overflow; double it after `STEPS_TO_GROW` steps without."""
        self._steps_at_scale += 1
        if self.optimizer.overflow:
            self.optimizer.loss_scale /= 2
            self._steps_at_scale = 0
        elif self._steps_at_scale == STEPS_TO_GROW:
            self.optimizer.loss_scale *= 2
            self._steps_at_scale = 0

    @property
    def loss_scale(self) -> Tensor | float:
        """See `Engine.loss_scale`."""
        return self.optimizer.loss_scale

    def _masters(self) -> list[Tensor]:
        if self.spec.stage == 3:
            return list(self.optimizer.fp32_partitioned_groups_flat)
        return list(self.optimizer.single_partition_of_fp32_groups)

    def _link_states(self) -> None:
        # Stages 1 and 2 access a parameter's states by views, which DeepSpeed makes in the first
        # step. They are needed before, to load a checkpoint.
        if self.spec.stage < 3:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.ds_shape if self.spec.stage == 3 else parameter.shape

    def _bounds(self, parameter: nn.Parameter) -> list[int]:
        elements = self._shape(parameter).numel()
        if self.spec.stage == 3:
            offset, size = 0, parameter.ds_tensor.ds_numel
        else:
            offset, size = self._partitions[parameter]
        starts = (number * size - offset for number in range(self.world_size + 1))
        return [min(max(start, 0), elements) for start in starts]

    @functools.cached_property
    def _partitions(self) -> dict[nn.Parameter, tuple[int, int]]:
        """Offsets in the flat group of a parameter, of which each rank has a part, and its size."""
        optimizer = self.optimizer
        return {
            parameter: (offset, flat.numel() // self.world_size)
            for parameters, offsets, flat in zip(
                optimizer.round_robin_bit16_groups,
                optimizer.round_robin_bit16_offsets,
                optimizer.bit16_groups_flat,
                strict=True,
            )
            for parameter, offset in zip(parameters, offsets, strict=True)
        }

    def _read_slice(self, parameter: nn.Parameter, kind: str) -> Tensor:
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        if self.spec.stage < 3:
            return self._fragment(parameter, kind)
        if kind == WEIGHT:
            padded = safe_get_local_fp32_param(parameter)
        else:
            padded = safe_get_local_optimizer_state(parameter, kind)
        start, stop = self._bounds(parameter)[self.rank : self.rank + 2]
        return padded[: stop - start]

    def _fragment(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """Return the view of this rank's slice under stage 1 or 2."""
        mapping = parameter._hp_mapping
        if mapping is None:  # all of the parameter lies on other ranks
            return torch.empty(0, device=self.device)
        return mapping.get_hp_fragment(None if kind == WEIGHT else kind)

    def _write_slice(self, parameter: nn.Parameter, kind: str, values: Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        if self.spec.stage < 3:
            self._fragment(parameter, kind).copy_(values)
            return
        # The last rank's slice is padded. DeepSpeed's function to set the state of a whole
        # parameter ignores that under stage 3 and runs over its end.
        padding = parameter.ds_tensor.ds_numel - values.numel()
        safe_set_local_optimizer_state(parameter, nn.functional.pad(values, (0, padding)), kind)
