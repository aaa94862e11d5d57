"""The trainer's forward path on a device: no other device's tensors, no synchronisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.support.batch_size.trainer_step import PageLosses, made_up_batch
from vaetrain.config.experiment import Experiment

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PAGES = 4


class OnlyOnDevice(TorchDispatchMode):
    """Dispatch mode that refuses operations with a tensor on any other device."""

    def __init__(self, device: torch.device = CUDA) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function: Callable, types: Any, args=(), kwargs=None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.device.type != self.device.type:
                raise AssertionError(f"{function} has a tensor on the {value.device.type}")
        return result


class MadeUpStep:
    """The forward path of a new model on pages that are made on the device."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.losses = PageLosses(experiment, device)
        size = (experiment.data.max_height, experiment.data.width)
        self.batch = made_up_batch(PAGES, size, device)

    def __call__(self) -> Tensor:
        """Return the losses of the pages."""
        return self.losses(self.batch)


def forward_on_fake_gpu(experiment: Experiment) -> None:
    """Compute losses on fake CUDA tensors; an exception names what left the device."""
    fake = FakeTensorMode()
    with fake:
        step = MadeUpStep(experiment, CUDA)
    with fake, OnlyOnDevice(CUDA):
        step()


def parameters_without_gradient(experiment: Experiment, *, fake: bool) -> list[str]:
    """Run forward and backward; return the parameters that got no gradient.

    Args:
        fake: on fake CPU tensors, because autograd asks for a real CUDA context even for fake CUDA
            tensors; else on the GPU, where the second pass must not synchronise.
    """
    if fake:
        with FakeTensorMode():
            step = MadeUpStep(experiment, CPU)
            step().sum().backward()
    else:
        step = MadeUpStep(experiment, CUDA)
        step().sum().backward()  # the first pass allocates and tunes
        torch.cuda.set_sync_debug_mode("error")
        try:
            step().sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [name for name, weight in step.losses.model.named_parameters() if weight.grad is None]
