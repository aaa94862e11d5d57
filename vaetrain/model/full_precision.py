"""Computations kept in float32 inside autocast, which `engines/model_options.py` switches on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import record_function


def widened(x: Tensor) -> Tensor:
    """Return a half-precision tensor in float32, and any other tensor as it is."""
    return x.float() if x.is_floating_point() and x.itemsize < 4 else x


def in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a function to run without autocast, on inputs of float32 at least."""

    @functools.wraps(function)
    def wrapped(*tensors: Tensor) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*map(widened, tensors))

    return wrapped


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a loss as `in_float32` does; profiler traces show it as `loss: <name>`."""
    computed = in_float32(loss)

    @functools.wraps(loss)
    def profiled(*tensors: Tensor) -> Tensor:
        with record_function(f"loss: {loss.__name__}"):
            return computed(*tensors)

    return profiled
