"""Precision of computations inside autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import record_function


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a loss to run without autocast, with half-precision inputs converted to float32.

    Profiler traces show it as `loss: <name>`.
    """

    @functools.wraps(loss)
    def in_float32(*tensors: Tensor) -> Tensor:
        autocast = torch.autocast(tensors[0].device.type, enabled=False)
        with record_function(f"loss: {loss.__name__}"), autocast:
            wide = [t.float() if t.is_floating_point() and t.itemsize < 4 else t for t in tensors]
            return loss(*wide)

    return in_float32
