"""Start of the engine that this process was launched for; the table of engines is `spec.py`."""

from __future__ import annotations

import importlib
import os

from vaetrain.engines.base import Engine
from vaetrain.engines.spec import Launch

TIMEOUT_SECONDS = 600.0


def start_engine(
    launch: Launch, precision: str | None = None, timeout: float = TIMEOUT_SECONDS
) -> Engine:
    """Create the engine of a launch and join its process group.

    Only the engine's own module is imported, so that DeepSpeed is not needed by the others.

    Args:
        precision: `no`, `bf16` or `fp16`; None: the launcher's.
        timeout: seconds that ranks wait for a rank that makes no progress.

    Raises ConfigError or EngineError with a message of one line.
    """
    if launch.visible_gpus is not None:
        # Before torch first looks for GPUs.
        os.environ["CUDA_VISIBLE_DEVICES"] = launch.visible_gpus
    module, _, name = launch.spec.implementation.rpartition(".")
    return getattr(importlib.import_module(module), name)(launch, precision, timeout)
