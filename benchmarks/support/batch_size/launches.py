"""Operations of a training step that launch at least one kernel each on a GPU.

A GPU waits for the host where kernels are shorter than the host takes to launch them, so the number
of operations bounds the time of a step of a small model. Counted on fake tensors: neither memory
nor a GPU is needed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.support.batch_size.trainer_step import TrainerStep, made_up_batch
from vaetrain.config.experiment import Experiment
from vaetrain.engines.optimizers import step_where
from vaetrain.training.ema import move_towards


class LaunchCounter(TorchDispatchMode):
    """Dispatch mode that counts ATen operations other than views, by name.

    A multi-tensor operation with a list of scalar tensors has no fused kernel and counts once for
    each of its tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.namespace == "aten" and not function.is_view:
            is_slow = function._schema.name == "aten::_foreach_lerp_" and isinstance(args[2], list)
            self.counts[function._schema.name] += len(args[0]) if is_slow else 1
        return result

    @property
    def total(self) -> int:
        """Number of all operations."""
        return self.counts.total()


def count_launches(experiment: Experiment, pages: int, rows: int) -> dict[str, int]:
    """Count the operations of one micro batch and of the update after it.

    Args:
        pages: of the micro batch, padded to `rows` rows.

    Returns: operations by part: `forward` with augmentation and losses, `backward`, `optimizer`
        without clipping, `ema`.
    """
    cpu, counts = torch.device("cpu"), {}
    with FakeTensorMode():
        step = TrainerStep(experiment, cpu)
        batch = made_up_batch(pages, (rows, experiment.data.width), cpu)
        with LaunchCounter() as counter:
            loss = step.losses(batch).sum()
        counts["forward"] = counter.total
        with LaunchCounter() as counter:
            loss.backward()
        counts["backward"] = counter.total
        with LaunchCounter() as counter:
            step_where(torch.ones((), dtype=torch.bool), step.optimizer)
        counts["optimizer"] = counter.total
        # Multi-tensor operations are used on GPUs only.
        weights, averages = (
            [torch.empty_like(p, device="cuda") for p in step.parameters] for _ in range(2)
        )
        with LaunchCounter() as counter:
            move_towards(averages, weights, torch.ones((), device="cuda"))
        counts["ema"] = counter.total
    return counts
